//! Secrets in files, which are followed: the tokens of proxies, and Redis' password.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::follow::{Files, follow};
use crate::given::Fault;
use crate::tls::Faults;

/// The static tokens that are accepted now.
pub type Tokens = watch::Receiver<Arc<TokenList>>;

/// The tokens of a file, one a line. Several, so that a new one is accepted before all proxies have it.
#[derive(Debug)]
pub struct TokenList(pub(crate) Vec<String>);

/// The tokens in this file, then and whenever it changes.
///
/// # Errors
/// If it cannot be read, or has no token.
pub fn tokens(file: &Path) -> Result<Tokens, Vec<Fault>> {
    let files =
        Files { name: "token", what: "tokens", paths: vec![file.to_owned()], certificates: Vec::new() };
    let file = file.to_owned();
    let load = move || read_tokens(&file).map_err(|fault| Faults(vec![fault]));
    follow(files, load).map_err(|Faults(all)| all)
}

fn read_tokens(file: &Path) -> Result<TokenList, Fault> {
    let tokens: Vec<String> = text("token-file", file)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if tokens.is_empty() {
        return Err(Fault::new(
            "token-file",
            format!("{} has no token: it must hold one a line", file.display()),
        ));
    }
    Ok(TokenList(tokens))
}

/// The password in a file: its first line.
pub(crate) fn password(setting: &str, file: &Path) -> Result<String, Fault> {
    match text(setting, file)?.lines().next() {
        None | Some("") => Err(Fault::new(setting, format!("the first line of {} is empty", file.display()))),
        Some(password) => Ok(password.to_owned()),
    }
}

/// Nothing of what is in it is in the message.
fn text(setting: &str, file: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(file)
        .map_err(|error| Fault::new(setting, format!("cannot read {}: {error}", file.display())))
}
