use super::{missing_header, translate};
use proptest::prelude::*;

/// As a compiler gets it, without blanks that do not matter.
fn translated(text: &str) -> String {
    translate(text)
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn refused(text: &str) -> String {
    translate(&format!("# 1 \"a.cu\"\n{text}"))
        .unwrap_err()
        .to_string()
}

fn unchanged(text: &str) {
    assert_eq!(translate(text).unwrap(), text);
}

#[test]
fn launches_are_found_where_they_are_and_nowhere_else() {
    assert_eq!(
        translated("f<<<1, 2>>>(3);"),
        "(simt::configure(1, 2), f(3));"
    );
    assert_eq!(
        translated("ns::f<A<int>><<<g<3>(), dim3(1, 2), 0, s>>>(a, {1, 2}, NULL);"),
        "(simt::configure(g<3>(), dim3(1, 2), 0, s), ns::f<A<int>>(a, {1, 2}, NULL));"
    );
    assert_eq!(
        translated("f<<<1, A<B<3>>::n>>>(x);"),
        "(simt::configure(1, A<B<3>>::n), f(x));"
    );
    assert_eq!(
        translated("f<<<1, A<B<3>>{}>>>();"),
        "(simt::configure(1, A<B<3>>{}), f());"
    );
    for text in [
        "s = \"f<<<1, 2>>>(3)\"; t = R\"x(f<<<1,\n\"2>>>(3))x\"; c = '<'; d = '\\'';",
        "a<b<c>>>d; e = a<b<c>>>(d); x = y << 3 >> 2; if (a<b && c>d) {}",
        "std::ostream &operator<<<int>(std::ostream &, X<int>);",
        "auto n = 1'000'000; auto m = 0x1p-3; L\"<<<\"; u8R\"(<<<)\";",
    ] {
        unchanged(text);
    }
}

#[test]
fn launches_stand_wherever_an_expression_does() {
    for (text, wanted) in [
        (
            "if (x) f<<<1,1>>>(2); else g<<<1,1>>>();",
            "if (x) (simt::configure(1,1), f(2)); else (simt::configure(1,1), g());",
        ),
        (
            "switch (x) { case 1: f<<<1,1>>>(); default: ::f<<<1,1>>>(); case A::b: f<<<1,1>>>(); }",
            "switch (x) { case 1: (simt::configure(1,1), f()); default: (simt::configure(1,1), ::f()); \
          case A::b: (simt::configure(1,1), f()); }",
        ),
        (
            "auto l = [&] { f<<<1,1>>>(); };",
            "auto l = [&] { (simt::configure(1,1), f()); };",
        ),
        (
            "a(), f<<<1,1>>>(), b();",
            "a(), (simt::configure(1,1), f()), b();",
        ),
        (
            "return f<T><<<n, 1>>>(x);",
            "return (simt::configure(n, 1), f<T>(x));",
        ),
        (
            "do { f<<<1,1>>>(); } while (0);",
            "do { (simt::configure(1,1), f()); } while (0);",
        ),
        (
            "void (*k)(int) = f; k<<<1,1>>>(3); (*k)<<<1,1>>>(3); t.k[i]<<<1,1>>>(3); \
          p->k<<<1,1>>>(3); get(3)<<<1,1>>>(3);",
            "void (*k)(int) = f; (simt::configure(1,1), k(3)); (simt::configure(1,1), (*k)(3)); \
          (simt::configure(1,1), t.k[i](3)); (simt::configure(1,1), p->k(3)); \
          (simt::configure(1,1), get(3)(3));",
        ),
        (
            "if (x) (*k)<<<1,1>>>(f<<<2,2>>>(), 3);",
            "if (x) (simt::configure(1,1), (*k)((simt::configure(2,2), f()), 3));",
        ),
        (
            "T::template f<3><<<1,1>>>();",
            "(simt::configure(1,1), T::template f<3>());",
        ),
        (
            "(void)f<<<1,1>>>(); x ? f<<<1,1>>>() : g<<<1,1>>>();",
            "(void)(simt::configure(1,1), f()); x ? (simt::configure(1,1), f()) : \
          (simt::configure(1,1), g());",
        ),
    ] {
        assert_eq!(translated(text), wanted);
    }
    // The words of a launch over several lines stay in theirs, but for the kernel's.
    assert_eq!(
        translate("f<<<1,\n2>>>(\n3\n);\ng();").unwrap(),
        "(simt::configure(1,\n2), f(\n3\n));\ng();"
    );
}

#[test]
fn a_kernel_is_a_function_that_launches_its_body() {
    let head = |name: &str, templates: &str, bound: &str| {
        format!(
            "simt::kernel({{\"{name}\", \"\", \"{templates}\", __PRETTY_FUNCTION__, \
                 simt::bound({bound})}}, "
        )
    };
    assert_eq!(
        translated("__global__ void f(float *a, const int n) { a[n] = 0; return; }"),
        format!(
            "void f(float *a, const int n) {{ {}[](float *a, const int n) \
                 {{ a[n] = 0; return; }}, a, n); }}",
            head("f", "", "1024")
        )
    );
    assert_eq!(
        translated(
            "template <class T, int N = 4, class... A> static __global__ \
                    __launch_bounds__(N * 32, 2) void ns::g(T *__restrict__ p, A... rest, \
                    void (*h)(int), float (&rows)[4], int = 3, Foo, const Foo, ns::X, \
                    typename T::type last = {}) { }"
        ),
        format!(
            "template <class T, int N = 4, class... A> static void ns::g(T *__restrict__ p, \
                 A... rest, void (*h)(int), float (&rows)[4], int = 3, Foo, const Foo, ns::X, \
                 typename T::type last = {{}}) {{ {}[](T *__restrict__ p, A... rest, \
                 void (*h)(int), float (&rows)[4], typename T::type last) {{ }}, p, rest..., h, \
                 rows, last); }}",
            head("g", "T,N,A", "N * 32, 2")
        )
    );
    assert_eq!(
        translated("template <> __global__ void f<int>(void) {}"),
        format!(
            "template <> void f<int>(void) {{ {}[]() {{}}); }}",
            head("f", "", "1024")
        )
    );
    assert_eq!(
        translated("extern \"C\" __global__ void f(int a);"),
        "extern \"C\" void f(int a);"
    );
    // A function of the same name is none.
    assert_eq!(
        translated("__global__ void f(int); void f(float x) { f<<<1,1>>>(3); }"),
        "void f(int); void f(float x) { (simt::configure(1,1), f(3)); }"
    );
}

#[test]
fn addresses_of_kernels_know_their_parameters() {
    let kernels = "template <int n> __global__ void f(int); ";
    for (text, wanted) in [
        ("g((void *)f<3>, 1);", "g( simt::function(f<3>), 1);"),
        (
            "g((const void *)&ns::f<3>);",
            "g( simt::function(&ns::f<3>));",
        ),
        (
            "p = reinterpret_cast<void *>(f<3>);",
            "p = simt::function(f<3>);",
        ),
        ("g((void *)h); (void *)f(3);", "g((void *)h); (void *)f(3);"),
    ] {
        let text = translate(&format!("{kernels}{text}")).unwrap();
        let text = text.split_once("(int); ").unwrap().1.to_string();
        let plain = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(plain(&text), plain(wanted));
    }
}

#[test]
fn shared_variables_are_the_executors() {
    let variable = |name: &str| {
        format!(
            "static simt::SharedVariable simt_{name}_place = {{{{0}}, \"{name}\"}}; \
                 simt_{name}_type &{name} = simt::shared<simt_{name}_type>(simt_{name}_place);"
        )
    };
    assert_eq!(
        translated("{ __shared__ float t[32][N + (a < b)], *q; { static __shared__ X<T, 3> v; } }"),
        format!(
            "{{ typedef float simt_t_type[32][N + (a < b)], *simt_q_type; {} {} \
                 {{ typedef X<T, 3> simt_v_type; {} }} }}",
            variable("t"),
            variable("q"),
            variable("v")
        )
    );
    assert_eq!(
        translated("{ here: __shared__ typename T::S x; case A::b: volatile __shared__ int y; }"),
        format!(
            "{{ here: typedef typename T::S simt_x_type; {} case A::b: typedef volatile int \
                 simt_y_type; {} }}",
            variable("x"),
            variable("y")
        )
    );
    assert_eq!(
        translated("{ __shared__ alignas(16) struct { int a; float b; } u; }"),
        format!(
            "{{ typedef __attribute__((aligned(16))) struct {{ int a; float b; }} simt_u_type; \
                 {} }}",
            variable("u")
        )
    );
    let dynamic = |kind: &str| {
        format!(
            "typedef {kind} simt_s_type[]; simt_s_type &s = \
                 *static_cast<simt_s_type *>(simt_dynamic_shared());"
        )
    };
    assert_eq!(
        translated(
            "void f() { extern __shared__ float s[]; } void g() { extern __shared__ int s[]; }"
        ),
        format!(
            "void f() {{ {} }} void g() {{ {} }}",
            dynamic("float"),
            dynamic("int")
        )
    );
    assert_eq!(
        translated("namespace a { extern __shared__ int s[]; extern __shared__ int s[]; }"),
        "namespace a { typedef int simt_s_type[]; static simt::Dynamic<simt_s_type> s; typedef int \
         simt_s_type[]; }"
    );
}

#[test]
fn what_is_not_run_is_said_with_its_line() {
    for (text, wanted) in [
        (
            "\n\nint x = tex2D<float>(t, 1, 2);",
            "a.cu:3: tex2D: textures and surfaces are not run",
        ),
        ("texture<float> t;", "a.cu:1: texture: textures"),
        (
            "cuLaunchKernel(f);",
            "a.cu:1: cuLaunchKernel: the driver API is not run here",
        ),
        (
            "cudaMemcpyPeer(a, 0, b, 1, 4);",
            "a.cu:1: cudaMemcpyPeer: several GPUs",
        ),
        (
            "__global__ void f() {\n f<<<1, 1>>>();\n}",
            "a.cu:2: a launch in a kernel (dynamic",
        ),
        ("f<<<1, 2>>;", "a.cu:1: <<< without >>>("),
        ("<<<1, 2>>>();", "a.cu:1: <<< without a kernel before it"),
        (
            "__shared__ int x;",
            "a.cu:1: __shared__ variables outside of functions",
        ),
        (
            "{ __shared__ int x = 3; }",
            "a.cu:1: __shared__ variables have no initial value",
        ),
    ] {
        let said = refused(text);
        assert!(said.starts_with(wanted), "{said}");
    }
    for log in [
        "b.cuh:7:10: fatal error: cub/cub.cuh: No such file or directory\n    7 | #include",
        "In file included from a.cu:1:\nb.cuh:7:10: fatal error: 'cub/cub.cuh' file not found",
    ] {
        let said = missing_header(log).unwrap().to_string();
        assert!(said.starts_with("b.cuh:7: CUB is not run here; "), "{said}");
    }
    assert_eq!(
        missing_header("a.cu:1:1: fatal error: mine.h: No such file or directory"),
        None
    );
    unchanged("int texture; float surf = texel(cudaError); cuda(); texture(3);");
}

#[test]
fn inline_ptx_is_statements() {
    assert_eq!(
        translated("asm(\"mov.u32 %0, %%laneid;\" : \"=r\"(lane));"),
        "do { uint32_t simt_p0 = 0; simt::ptx::set(simt_p0, \
         simt::ptx::as<uint32_t>(simt::ptx::laneid())); simt::ptx::set(lane, simt_p0); } while (0) ;"
    );
    for known in [
        "ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];",
        "{\\n .reg .pred p;\\n setp.ne.b32 p, %4, 0;\\n @p st.global.u32 [%4+4], %0;\\n}",
        "{ ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4]; }",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, \
         {%4,%4}, {%0,%1,%2,%3};",
        "cp.async.cg.shared.global [%4], [%4], 16;",
        "cp.async.wait_group 1;",
        "bar.sync 0;",
        "lop3.b32 %0, %1, %2, %3, 0xE8;",
        "fma.rn.f32 %0, %1, %2, %3;",
        "membar.gl;",
        "trap;",
        "mul.wide.u32 %0, %1, %2;",
        "mov.b64 {%0, %1}, %4;",
        "ex2.approx.ftz.f32 %0, %1;",
        "add.s32 %0, %1, -3;",
        "mov.f32 %0, 0f3F800000;",
    ] {
        let outputs = "\"=r\"(a), \"+r\"(b), \"+r\"(c), \"+r\"(d)";
        let text = format!("asm(\"{known}\" : {outputs} : \"l\"(p[1]) : \"memory\");");
        let after = translated(&text);
        assert!(after.starts_with("do { uint32_t simt_p0 = 0; "), "{after}");
        assert!(
            after.ends_with("simt::ptx::set(d, simt_p3); } while (0) ;"),
            "{after}"
        );
    }
    for unknown in [
        "tcgen05.alloc %0;",
        "bar.sync 1, 64;",
        "add.rz.f32 %0, %0, %0;",
        "cp.async.x;",
    ] {
        let said = refused(&format!("asm(\"{unknown}\" : \"=r\"(a));"));
        assert!(said.starts_with("a.cu:1: inline PTX \""), "{said}");
    }
    unchanged("asm volatile(\"rdtsc\" : \"=a\"(low), \"=d\"(high)); __asm__(\"pause\");");
}

/// Tokens that mean something to the translator, and some that do not.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "__global__",
        "__shared__",
        "<<<",
        ">>>",
        "<",
        ">",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ";",
        ",",
        ":",
        "::",
        "=",
        "extern",
        "static",
        "template",
        "void",
        "void *",
        "f",
        "g",
        "int",
        "->",
        ".",
        "...",
        "asm",
        "volatile",
        "\"mov.u32 %0, %laneid;\"",
        "\"=r\"",
        "\"r\"",
        "\"",
        "'",
        "R\"(",
        ")\"",
        "\\",
        "\n",
        "\n# 7 \"b.cu\" 1\n",
        "\n# 1 \"/s.h\" 3\n",
        "#",
        "alignas",
        "__launch_bounds__",
        "__noinline__",
        "reinterpret_cast",
        "const",
        "operator",
        "case",
        "@p",
        "%",
        "1'0",
        "é",
        "\"ld.global.v2.f32 {%0, %1}, [%2];\"",
        "\"l\"",
        "namespace",
        "&",
        "*",
        " ",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..60)
        .prop_map(|words| words.concat())
}

/// The lines that a compiler sees each token in.
fn lines(text: &str) -> usize {
    text.matches('\n').count()
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_or_change_a_line(text in soup()) {
        if let Ok(after) = translate(&text) {
            prop_assert_eq!(lines(&after), lines(&text));
        }
    }

    #[test]
    fn plain_text_stays_as_it_is(text in "[a-z0-9(){}\\[\\];:,.<>=+\"'\\\\\n #_-]{0,80}") {
        if !text.contains("<<<") && !text.contains("asm") {
            prop_assert_eq!(translate(&text).unwrap(), text);
        }
    }

    // Whatever stands between two translated statements comes through.
    #[test]
    fn what_is_between_stays(text in "[a-z0-9(){};:,.=+ \n]{0,40}") {
        let whole = format!("\nf<<<1,1>>>();\n{text}\n");
        if let Ok(after) = translate(&whole) {
            let tail = format!("\n{text}\n");
            prop_assert!(after.ends_with(&tail), "{}", after);
        }
    }
}

#[test]
fn results_that_nobody_looks_at_are_marked() {
    for (text, wanted) in [
        (
            "{ cudaFree(p); (void)cudaFree(f(p)); if (p) cudaFree(p); else cudaFree(q); }",
            "{ simt_ignores(true), cudaFree(p), simt_ignores(false); \
             (void)simt_ignores(true), cudaFree(f(p)), simt_ignores(false); \
             if (p) simt_ignores(true), cudaFree(p), simt_ignores(false); \
             else simt_ignores(true), cudaFree(q), simt_ignores(false); }",
        ),
        (
            "; do cudaFree(p); while (cudaFree(q));",
            "; do simt_ignores(true), cudaFree(p), simt_ignores(false); while (cudaFree(q));",
        ),
    ] {
        assert_eq!(translated(text), wanted);
    }
    for text in [
        "e = cudaFree(p); return cudaFree(p); int i = (int)cudaFree(p); if (cudaFree(p)) {}",
        "check(cudaFree(p)); { cudaStream_t(s); cudaFree(p) ? a : b; s.cudaFree(p); }",
        "cudaError_t cudaFree(void *); x ? y : cudaFree(p);",
    ] {
        unchanged(text);
    }
}
