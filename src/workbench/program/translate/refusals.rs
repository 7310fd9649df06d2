//! What is not run here, said before anything is compiled or run.

use super::{Place, Refused, Result, Unit};

/// Words, or beginnings of words, of what there is nothing for; what they are, and what would do.
const WORDS: [(&str, &str); 28] = [
    ("texture", TEXTURES),
    ("surface", TEXTURES),
    ("tex1D", TEXTURES),
    ("tex2D", TEXTURES),
    ("tex3D", TEXTURES),
    ("texCubemap", TEXTURES),
    ("surf1D", TEXTURES),
    ("surf2D", TEXTURES),
    ("surf3D", TEXTURES),
    ("cudaTextureObject_t", TEXTURES),
    ("cudaSurfaceObject_t", TEXTURES),
    ("cudaCreateTextureObject", TEXTURES),
    ("cudaCreateSurfaceObject", TEXTURES),
    ("cudaBindTexture", TEXTURES),
    ("cudaMallocArray", TEXTURES),
    ("cudaMalloc3DArray", TEXTURES),
    ("cluster_group", CLUSTERS),
    ("this_cluster", CLUSTERS),
    ("__cluster_dims__", CLUSTERS),
    ("cudaLaunchAttributeClusterDimension", CLUSTERS),
    (
        "cudaGraphics",
        "graphics interoperation is not run here; copy to the host",
    ),
    (
        "cudaIpc",
        "memory of other processes is not run here; use one process",
    ),
    ("cudaDeviceEnablePeerAccess", PEERS),
    ("cudaMemcpyPeer", PEERS),
    ("cudaMemPoolSetAccess", PEERS),
    (
        "cudaGraphAddMemAllocNode",
        "graph nodes that allocate are not run here; allocate before the capture",
    ),
    (
        "nvrtcCreateProgram",
        "kernels compiled while running are not run here; put them into the file",
    ),
    (
        "cudaGraphConditionalHandle",
        "conditional graph nodes are not run here; decide on the host",
    ),
];

const TEXTURES: &str =
    "textures and surfaces are not run here; read global memory, through __ldg()";
const CLUSTERS: &str = "clusters of blocks are not run here; exchange through global memory";
const PEERS: &str = "several GPUs are not run here; use cudaMemcpy on one";

/// Functions of the driver API begin with these, and a capital.
const DRIVER: [&str; 10] = [
    "cuInit",
    "cuDevice",
    "cuCtx",
    "cuModule",
    "cuMem",
    "cuLaunch",
    "cuFunc",
    "cuLink",
    "cuLibrary",
    "cuKernel",
];

/// Beginnings of headers that are not there, and what would do.
const HEADERS: [(&str, &str); 20] = [
    (
        "cub/",
        "CUB is not run here; write the reduction or scan with warp shuffles",
    ),
    (
        "thrust/",
        "Thrust is not run here; write the loop as a kernel",
    ),
    (
        "cudnn",
        "cuDNN is not run here; leave that part out by a macro (-D)",
    ),
    ("nccl", "NCCL is not run here: there is one GPU"),
    ("mpi.h", "MPI is not run here: there is one GPU"),
    (
        "nvrtc",
        "kernels compiled while running are not run here; put them into the file",
    ),
    (
        "curand",
        "cuRAND is not run here; draw numbers by a function of your own",
    ),
    ("cufft", "cuFFT is not run here"),
    ("cusparse", "cuSPARSE is not run here"),
    ("cusolver", "cuSOLVER is not run here"),
    (
        "cublasLt",
        "cuBLASLt is not run here; cublas_v2.h has products for comparison",
    ),
    ("cute/", "CUTLASS is not run here"),
    ("cutlass/", "CUTLASS is not run here"),
    (
        "cuda_fp",
        "numbers of 8 bits and fewer are not run here; half and __nv_bfloat16 are",
    ),
    (
        "cuda/std/",
        "that part of libcu++ is not run here; the C++ library's header of that name may do",
    ),
    (
        "nvml",
        "NVML is not run here: there is no GPU to look after",
    ),
    ("npp", "NPP is not run here"),
    ("GL/", "OpenGL is not run here"),
    ("cuda_gl_interop", "OpenGL is not run here"),
    ("cudaEGL", "EGL is not run here"),
];

/// A compiler's message about a header that it does not find, if it is one of a library that is not
/// run here.
pub fn missing_header(log: &str) -> Option<Refused> {
    // x.cu:3:10: fatal error: cub/cub.cuh: No such file or directory
    // x.cu:3:10: fatal error: 'cub/cub.cuh' file not found
    let (place, message) = log
        .lines()
        .find_map(|line| line.split_once(": fatal error: "))?;
    let header = match message.strip_prefix('\'') {
        Some(quoted) => quoted.strip_suffix("' file not found")?,
        None => message.strip_suffix(": No such file or directory")?,
    };
    let (_, what) = HEADERS.iter().find(|(name, _)| header.starts_with(name))?;
    let (place, _) = place.rsplit_once(':')?;
    let (file, line) = place.rsplit_once(':')?;
    Some(Refused {
        place: Place {
            file: file.into(),
            line: line.parse().ok()?,
        },
        what: what.to_string(),
    })
}

impl Unit<'_> {
    pub(super) fn refuse(&self) -> Result {
        for position in 0..self.len() {
            if !self.is_word(position) {
                continue;
            }
            let word = self.at(position);
            if let Some(what) = self.refusal(word, self.at(position + 1)) {
                return self.refused(position, format!("{word}: {what}"));
            }
        }
        Ok(())
    }

    fn refusal(&self, word: &str, next: &str) -> Option<&'static str> {
        let known = WORDS.iter().find(|(name, _)| match *name {
            // Types, which others have, too.
            "texture" | "surface" => word == *name && next == "<",
            name if name.starts_with("tex") || name.starts_with("surf") => {
                word.starts_with(name) && matches!(next, "<" | "(")
            }
            name => word.starts_with(name),
        });
        if let Some((_, what)) = known {
            return Some(what);
        }
        let driver = DRIVER.iter().any(|name| {
            let rest = word.strip_prefix(name);
            let capital = |rest: &str| rest.is_empty() || rest.starts_with(char::is_uppercase);
            rest.is_some_and(capital) && next == "("
        });
        driver.then_some("the driver API is not run here; use the runtime API (cuda_runtime.h)")
    }
}
