//! The clipmill binary.

fn main() -> std::process::ExitCode {
    pipelines::cli::main()
}
