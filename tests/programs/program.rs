//! Programs of one's own as their author meets them: what is translated, what the runtime says, and
//! what goes wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with a program, `a.cu`.
fn folder(source: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.cu"), source).expect("written");
    folder
}

fn kernels(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kernels"));
    command.current_dir(folder).args(args);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// What `kernels ACTION a.cu` prints of that source, and says, and ends with.
fn run(args: &[&str], source: &str) -> (String, String, Option<i32>) {
    let folder = folder(source);
    said(kernels(folder.path(), args).output().expect("it runs"))
}

fn said(output: Output) -> (String, String, Option<i32>) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (out, err, output.status.code())
}

/// What such a program prints, which does nothing wrong.
fn printed(source: &str) -> String {
    let (out, err, code) = run(&["run", "a.cu"], source);
    assert_eq!((err.as_str(), code), ("", Some(0)), "{out}");
    out
}

#[test]
fn arguments_are_converted_to_the_kernels_parameters() {
    let source = r#"
#include <cstdio>
template <class T, int N> __global__ void add(T *p, T x) { if (p) *p += x + N; }
template <class T> __global__ void step(T *p, T x) { *p += x; }
// A function of the same name launches the kernel.
template <class T> void step(T *p) { step<<<1, 1>>>(p, T(100)); }
__global__ void set(int *p, double x, int *other = nullptr) { if (p) *p = int(x * 2); }
template <class F> __global__ void each(F f) { f(threadIdx.x); }
namespace inner { struct S { static int *last; int a[3]; };
__global__ void members(S s, int *p) { *p = s.a[0] + s.a[2]; } }
#define LAUNCH(kernel, ...) do { kernel<<<1, 1>>>(__VA_ARGS__); } while (0)
int main() {
    int *p;
    cudaMallocManaged(&p, 4 * sizeof(int));
    set<<<1, 1>>>(NULL, 3.f, 0); set<<<1, 1>>>(0, 3, nullptr); set<<<1, 1>>>(nullptr, {}, {});
    set<<<1, 1>>>(p, 21, 0); printf("%d\n", *p);
    add<int, 4><<<1, 1>>>(p, 1.9f); printf("%d\n", *p);
    add<int, 4><<<1, 1>>>(NULL, 1);
    step(p); printf("%d\n", *p);
    void (*k)(int *, double, int *) = set; k<<<1, 1>>>(p, 5, p); printf("%d\n", *p);
    if (*p) LAUNCH(inner::members, {{1, 2, 3}}, p); else set<<<1, 1>>>(p, 0);
    printf("%d\n", *p);
    each<<<1, 4>>>([=] __device__ (int i) { p[i] = i * i; }); printf("%d\n", p[3]);
    switch (*p) { case 0: set<<<1, 1>>>(p, 1); break; default: set<<<1, 1>>>(p, 2); }
    auto launch = [&] { return set<<<1, 1>>>(p, 8); };
    launch(); *p ? set<<<1, 1>>>(p, 9) : launch(); printf("%d\n", *p);
    double x = 11; int *none = nullptr; void *args[] = {&p, &x, &none};
    cudaLaunchKernel((const void *)set, 1, 1, args); printf("%d\n", *p);
    const char *text = "set<<<1, 1>>>(p)"; printf("%s %d\n", text, 256 >> 3 >> 1);
    cudaFree(p);
}
"#;
    let wanted = "42\n47\n147\n10\n4\n9\n18\n22\nset<<<1, 1>>>(p) 16\n";
    assert_eq!(printed(source), wanted);
}

#[test]
fn shared_variables_and_symbols_are_where_they_are_declared() {
    let source = r#"
#include <cstdio>
__constant__ float weights[2] = {2, 3};
__device__ int calls;
static __device__ __constant__ int three = 3;
extern __shared__ float outside[];
template <class T> struct Holder { struct Pair { T x, y; }; };
template <class T> __device__ T turn(T x) { __shared__ T slot[64]; slot[threadIdx.x] = x; __syncthreads();
    return slot[blockDim.x - 1 - threadIdx.x]; }
template <class T> __global__ void __launch_bounds__(2 * 32) f(T *out) {
    __shared__ typename Holder<T>::Pair pair;
    { __shared__ alignas(16) T nested[64]; nested[threadIdx.x] = threadIdx.x; out[threadIdx.x] = nested[threadIdx.x]; }
    if (threadIdx.x == 0) { pair.x = weights[0]; pair.y = three; calls += 1; }
    __syncthreads();
    out[threadIdx.x] = turn(out[threadIdx.x]) * pair.x + pair.y;
}
__global__ void dynamic(float *out) { outside[threadIdx.x] = threadIdx.x; __syncthreads(); out[threadIdx.x] = outside[31 - threadIdx.x]; }
__global__ void other(int *out) { extern __shared__ int mine[]; mine[threadIdx.x] = 5; out[threadIdx.x] = mine[threadIdx.x]; }
int main() {
    float *out; cudaMallocManaged(&out, 256);
    f<<<1, 32>>>(out); printf("%g\n", out[1]);
    float seven = 7; cudaMemcpyToSymbol(weights, &seven, 4); f<<<1, 32>>>(out); printf("%g\n", out[1]);
    int n; cudaMemcpyFromSymbol(&n, calls, sizeof n); printf("%d\n", n);
    dynamic<<<1, 32, 128>>>(out); printf("%g\n", out[1]);
    other<<<1, 32, 128>>>((int *)out); printf("%d\n", *(int *)out);
    cudaFree(out);
}
"#;
    assert_eq!(printed(source), "63\n213\n2\n30\n5\n");
}

#[test]
fn inline_ptx_does_what_it_says() {
    let source = r#"
#include <cstdio>
__global__ void k(float *x, unsigned *o) {
    unsigned lane, r;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm("lop3.b32 %0, %1, %2, %3, 0xE8;" : "=r"(r) : "r"(lane), "r"(3), "r"(5));
    o[threadIdx.x] = r;
    float4 v;
    asm("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(x));
    asm volatile("bar.sync 0;");
    asm volatile("{\n .reg .pred p;\n setp.eq.s32 p, %1, 7;\n @p st.global.f32 [%0+4], %2;\n}"
                 :: "l"(x + threadIdx.x), "r"(threadIdx.x), "f"(v.w));
}
int main() {
    float *x; unsigned *o; cudaMallocManaged(&x, 256); cudaMallocManaged(&o, 256);
    for (int i = 0; i < 64; i++) x[i] = i;
    k<<<1, 32>>>(x, o);
    printf("%u %u %g %g\n", o[1], o[6], x[7], x[8]);
    cudaFree(x); cudaFree(o);
}
"#;
    assert_eq!(printed(source), "1 7 7 3\n");
}

#[test]
fn calls_end_with_the_errors_that_they_have_on_a_gpu() {
    let source = r#"
#include <cstdio>
__global__ void f(int *p) { if (p) *p = 1; }
__global__ void __launch_bounds__(64) small() {}
#define SAY(x) printf("%s\n", cudaGetErrorName(x))
int main() {
    int *d, h[4]; SAY(cudaMalloc(&d, 16)); SAY(cudaMemcpy(h, d, 17, cudaMemcpyDeviceToHost));
    SAY(cudaMemcpy(d, h, 16, cudaMemcpyDeviceToHost)); SAY(cudaMemcpy(d, h, 16, cudaMemcpyDefault));
    SAY(cudaFree(h)); SAY(cudaFree(nullptr)); SAY(cudaSetDevice(1));
    SAY(cudaGetLastError()); SAY(cudaGetLastError());
    f<<<1, 1025>>>(d); SAY(cudaPeekAtLastError()); SAY(cudaGetLastError());
    small<<<1, 65>>>(); SAY(cudaGetLastError());
    f<<<1, 1, 49153>>>(d); SAY(cudaGetLastError());
    SAY(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536));
    f<<<1, 1, 49153>>>(d); SAY(cudaGetLastError());
    cudaPointerAttributes a; cudaPointerGetAttributes(&a, d); printf("%d ", a.type);
    cudaPointerGetAttributes(&a, h); printf("%d\n", a.type);
    int n; cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, f, 256, 0); printf("%d\n", n);
    cudaStream_t s; cudaStreamCreate(&s); cudaGraph_t g; cudaGraphExec_t e;
    cudaMemset(d, 0, 16); cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    f<<<1, 1, 0, s>>>(d); SAY(cudaMemcpy(h, d, 4, cudaMemcpyDeviceToHost)); SAY(cudaGetLastError());
    cudaStreamEndCapture(s, &g); cudaMemcpy(h, d, 4, cudaMemcpyDeviceToHost); printf("%d", h[0]);
    cudaGraphInstantiate(&e, g, 0); cudaGraphLaunch(e, s); cudaMemcpy(h, d, 4, cudaMemcpyDeviceToHost);
    printf(" %d\n", h[0]); SAY(cudaStreamSynchronize(s)); SAY(cudaFree(d));
}
"#;
    let wanted = "cudaSuccess cudaErrorInvalidValue cudaErrorInvalidValue cudaSuccess \
                  cudaErrorInvalidValue cudaSuccess cudaErrorInvalidDevice cudaErrorInvalidDevice \
                  cudaSuccess cudaErrorInvalidConfiguration cudaErrorInvalidConfiguration \
                  cudaErrorLaunchOutOfResources cudaErrorInvalidValue cudaSuccess cudaSuccess 2 0 8 \
                  cudaErrorStreamCaptureImplicit cudaErrorStreamCaptureImplicit 0 1 cudaSuccess \
                  cudaSuccess";
    let out = printed(source);
    assert_eq!(out.split_whitespace().collect::<Vec<_>>().join(" "), wanted);
}

#[test]
fn the_checker_sees_the_host_too() {
    let (out, _, code) = run(
        &["check", "a.cu"],
        "#include <cstdio>
__global__ void f(int *p) { *p = 1; }
int main() {
    int *d, *left;
    cudaMalloc(&d, 4);
    cudaMalloc(&left, 8);
    f<<<1, 1>>>(d);
    printf(\"%d\\n\", *d);
    cudaFree(d);
    f<<<1, 2048>>>(left);
}
",
    );
    assert_eq!(code, Some(1), "{out}");
    assert!(out.starts_with("1\n"), "{out}");
    for line in [
        "byte 0 of device memory (4 bytes, allocated at a.cu:5); copy it with cudaMemcpy\n  read at \
         a.cu:8\n",
        "note: a.cu:6: 8 bytes are never freed\n",
        "note: a.cu:10: launch of f<<<(1,1,1), (2048,1,1), 0>>> failed: invalid configuration \
         argument, and the program does not ask (cudaGetLastError)\n",
        "\n1 kernel, 1 launch: 1 finding\n",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
}

#[test]
fn a_fault_names_kernel_block_thread_and_line_and_stays() {
    let (out, err, code) = run(
        &["run", "a.cu"],
        "#include <cstdio>
__global__ void f(int *p) { if (blockIdx.x == 1 && threadIdx.x == 3)
    *p = 1; }
int main() {
    f<<<2, 32>>>((int *)64);
    printf(\"%s\\n\", cudaGetErrorString(cudaDeviceSynchronize()));
    int *d; printf(\"%s\\n\", cudaGetErrorName(cudaMalloc(&d, 4)));
    return 3;
}
",
    );
    assert_eq!(
        out,
        "an illegal memory access was encountered\ncudaErrorIllegalAddress\n"
    );
    assert_eq!(code, Some(3), "{err}");
    let wanted = "kernel f (a.cu), block (1,0,0), thread (3,0,0): access to address 0x40, which is not \
                  there (SIGSEGV), at a.cu:3\n";
    assert_eq!(err, wanted);
}

/// In a function that is called, in one of ours, in one of the C library's; of a null pointer that the
/// compiler knows of; far beyond the end; in what looks at kernels.
#[test]
fn a_fault_has_its_line_wherever_the_code_is() {
    let folder = folder(
        "#include <cstdio>
#include <cstdlib>
__device__ void inner(int *p) {
    atomicAdd(p, 1);
}
__global__ void f(int *p, int how) {
    __syncthreads();
    if (threadIdx.x != 3) return;
    if (how == 0) inner(p);
    if (how == 1) memset(p, 0, 1000);
    if (how == 2) printf(\"%d\\n\", *(int *)nullptr);
    if (how == 3) p[1ll << 40] = 3;
    if (how == 4) __trap();
}
int main(int, char **v) {
    f<<<2, 32>>>(nullptr, atoi(v[1]));
    cudaDeviceSynchronize();
}
",
    );
    let said = |action: &str, how: &str| {
        let mut command = kernels(folder.path(), &[action, "a.cu", how]);
        said(command.output().expect("it runs"))
    };
    for (how, line) in [("0", 4), ("1", 10), ("2", 11), ("3", 12), ("4", 13)] {
        let (_, err, code) = said("run", how);
        assert_eq!(code, Some(1), "nobody has looked at the error: {err}");
        let start = "kernel f (a.cu), block (0,0,0), thread (3,0,0): ";
        assert!(err.starts_with(start), "{err}");
        assert!(err.ends_with(&format!(" at a.cu:{line}\n")), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let (_, err, code) = said("profile", "0");
    assert_eq!(code, Some(1), "{err}");
    assert!(err.ends_with(" at a.cu:4\n"), "{err}");
    let (out, _, code) = said("check", "0");
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains(", thread (3,0,0) at a.cu:4\n"), "{out}");
}

/// Whether a program that ends with 0 has looked at the error of a kernel: cudaGetLastError, what a
/// call returned, but not a call whose result is dropped.
#[test]
fn who_looks_at_an_error_has_an_exit_code_of_its_own() {
    for (looks, wanted) in [
        ("cudaDeviceSynchronize();", 1),
        (
            "(void)cudaDeviceSynchronize(); if (p) cudaFree(p); else cudaFree(p);",
            1,
        ),
        ("", 1),
        (
            "cudaDeviceSynchronize(); if (cudaGetLastError() == cudaErrorAssert) puts(\"expected\");",
            0,
        ),
        ("cudaError_t e = cudaDeviceSynchronize(); (void)e;", 0),
        ("if (cudaFree(p) != cudaSuccess) cudaDeviceReset();", 0),
        // The second failure is another.
        (
            "if (cudaFree(p) != cudaSuccess) cudaDeviceReset(); f<<<1, 1>>>(p);",
            1,
        ),
    ] {
        let source = format!(
            "#include <cstdio>
#include <cassert>
__global__ void f(int *p) {{ assert(p != nullptr); }}
int main() {{ int *p = nullptr; f<<<1, 1>>>(p); {looks} }}
"
        );
        let (_, err, code) = run(&["run", "a.cu"], &source);
        assert_eq!(code, Some(wanted), "{looks}: {err}");
        assert!(err.contains("a.cu:3: Assertion"), "{err}");
    }
}

#[test]
fn what_is_not_run_is_said_in_a_line_before_anything_runs() {
    for (source, wanted) in [
        (
            "#include <cub/cub.cuh>\nint main() {}",
            "a.cu:1: CUB is not run here; ",
        ),
        (
            "#include <cuda_fp8.h>\nint main() {}",
            "a.cu:1: numbers of 8 bits and fewer are not run here; ",
        ),
        (
            "#include <cooperative_groups.h>\n__global__ void f() {\n    \
             cooperative_groups::this_cluster().sync();\n}\nint main() {}",
            "a.cu:3: this_cluster: clusters of blocks are not run here; ",
        ),
        (
            "int main() { cuInit(0); }",
            "a.cu:1: cuInit: the driver API is not run here; ",
        ),
        (
            "__global__ void f() {}\n__global__ void g() { f<<<1, 1>>>(); }\nint main() {}",
            "a.cu:2: a launch in a kernel (dynamic parallelism) is not run here; ",
        ),
        (
            "__global__ void f() { asm(\"tcgen05.fence;\"); }\nint main() {}",
            "a.cu:1: inline PTX \"tcgen05.fence\" is not run here; ",
        ),
    ] {
        let (out, err, code) = run(&["run", "a.cu"], source);
        assert_eq!((out.as_str(), code), ("", Some(2)), "{err}");
        assert!(err.starts_with(&format!("kernels: {wanted}")), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn what_cannot_be_a_program_is_said() {
    let folder = folder("int main() { return 0 }\n");
    let inner = folder.path().join("inner.cu");
    fs::create_dir(&inner).expect("a folder");
    fs::write(folder.path().join("bytes.cu"), [0xff, 0xfe, 0, 1]).expect("written");
    fs::write(folder.path().join("none.cu"), "int x;\n").expect("written");
    for (file, wanted) in [
        ("absent.cu", "absent.cu: No such file or directory"),
        ("inner.cu", "inner.cu: no file"),
        ("bytes.cu", "bytes.cu"),
        ("none.cu", "the program has no main()"),
        ("a.cu", "a.cu:1:22: error: "),
    ] {
        let (_, err, code) = said(
            kernels(folder.path(), &["run", file])
                .output()
                .expect("runs"),
        );
        assert_eq!(code, Some(2), "{err}");
        assert!(
            err.starts_with("kernels: ") && err.contains(wanted),
            "{err}"
        );
    }
}

#[test]
fn a_macro_has_a_name() {
    for wrong in ["1x", "a-b=1", "=1"] {
        let (out, err, code) = run(&["run", "-D", wrong, "a.cu"], "int main() {}\n");
        assert_eq!((out.as_str(), code), ("", Some(2)), "{err}");
        assert!(err.starts_with(&format!("kernels: -D {wrong}: ")), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_program_without_an_end_is_interrupted() {
    let folder = folder(
        "#include <cstdio>\n__global__ void f() { for (;;) {} }\n\
         int main() { puts(\"ready\"); fflush(stdout); f<<<1, 1>>>(); }\n",
    );
    let mut command = kernels(folder.path(), &["run", "a.cu"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let status = child.wait().expect("it ends");
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}

#[test]
fn device_memory_ends_somewhere() {
    let (out, err, code) = run(
        &["run", "a.cu"],
        "#include <cstdio>\nint main() { char *p; size_t n = 0; while (cudaMalloc(&p, 1ull << 36) == \
         cudaSuccess) n++;\n puts(cudaGetErrorString(cudaGetLastError())); return n > 1000; }\n",
    );
    assert_eq!((out.as_str(), code), ("out of memory\n", Some(0)), "{err}");
    assert!(
        err.starts_with("kernels: there is no room for 68719476736 bytes"),
        "{err}"
    );
}

#[test]
fn where_there_can_be_no_cache_nothing_is_left() {
    let folder = folder("#include <cstdio>\nint main() { puts(\"runs\"); return 7; }\n");
    let (temporary, file) = (folder.path().join("tmp"), folder.path().join("file"));
    fs::create_dir(&temporary).expect("a folder");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o700)).expect("ours");
    fs::write(&file, "").expect("written");
    let mut command = kernels(folder.path(), &["run", "a.cu"]);
    // Below a file there are no folders, whoever one is.
    command
        .env("XDG_CACHE_HOME", &file)
        .env("TMPDIR", &temporary);
    let (out, err, code) = said(command.output().expect("it runs"));
    assert_eq!((out.as_str(), code), ("runs\n", Some(7)), "{err}");
    assert_eq!(fs::read_dir(&temporary).expect("a folder").count(), 0);
}
