//! Compiles the kernels of `cuda/` to PTX, with the feature `cuda` alone.

fn main() {
    #[cfg(feature = "cuda")]
    compile();
}

/// As candle's own kernels: `nvcc` of `CUDA_HOME`, for `CUDA_COMPUTE_CAP` or the GPU of this machine.
#[cfg(feature = "cuda")]
fn compile() {
    println!("cargo::rerun-if-changed=cuda");
    let built = cudaforge::KernelBuilder::new()
        .source_dir("cuda")
        .watch(["cuda/common.cuh", "cuda/gelu.cuh"])
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx();
    if let Err(error) = built {
        println!("cargo::error=the CUDA kernels cannot be compiled: {error}");
    }
}
