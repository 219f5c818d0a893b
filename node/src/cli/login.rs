//! `login`: makes this user an operator of a cluster, from any machine.
//!
//! Redeems a token at a member's operators' door and keeps the key and the
//! grant in the user's configuration. The token's secret is never written.

use clap::Args;

use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::token;
use crate::remote::client;

/// What `login` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoginArgs {
    /// The token that `invite --operator` printed; - reads it from standard input
    #[arg(value_name = "TOKEN|-")]
    token: String,
}

/// Redeems the token and keeps what came of it.
pub(crate) async fn run(args: LoginArgs, out: Output) -> Result<u8, Failed> {
    let (token, _) = token::read(args.token)?;
    let login = client::login(&token).await?;
    let path = login.save()?;
    match out.format {
        Format::Json => {
            let told = serde_json::json!({
                "cluster": login.cluster, "operator": login.key().id(), "addresses": login.addresses,
            });
            out.json(told.to_string().as_bytes())?;
        }
        Format::Human | Format::Quiet => {
            out.line(&format!("logged in: cluster {}", login.cluster.short()))?;
        }
    }
    out.note(&format!("the key is kept in {}", path.display()));
    let first = login.addresses.first().map_or("HOST", String::as_str);
    out.note(&format!("next: starling --peer {first} node ls"));
    Ok(0)
}
