//! The OCI runtime: `oci create`, `start`, `state`, `kill`, `delete`, `run`. Its keeper too.

use std::process::ExitCode;

fn main() -> ExitCode {
    testnet::oci::main()
}
