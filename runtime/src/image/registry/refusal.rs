//! What a registry's refusals mean.
//!
//! Its own words are shown, shortened; those of another server that it sent us to are not, for
//! whoever reads them need not be whom that server speaks to.

use hyper::Method;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Deserialize;

use super::RegistryError;
use super::line::Content;
use super::retry;
use super::session::{Answer, Session};
use super::url::Allowed;

/// Longest refusal that is read.
pub(super) const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Characters of a registry's own words that people are shown.
const SAID_MAX: usize = 200;

impl Session {
    /// What an answer that is none of success means.
    pub(super) async fn refusal(&self, answer: Answer, wanted: &str) -> RegistryError {
        let Answer { status, headers, body, ours, .. } = answer;
        let after = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        let after = retry::after(after);
        let words = body.little(REFUSAL_BYTES_MAX).await;
        let words = if ours { Words::read(&words) } else { None };
        let spoke = words.is_some();
        let Words { code, message: said } = words.unwrap_or_default();
        let (host, repository) = (self.host.clone(), self.repository.clone());
        match status {
            StatusCode::UNAUTHORIZED if ours => self.unauthorised(),
            StatusCode::FORBIDDEN if ours => {
                let with_credentials = self.credential.is_some();
                RegistryError::Denied { host, repository, with_credentials, said }
            }
            StatusCode::NOT_FOUND if code == "NAME_UNKNOWN" => {
                RegistryError::NoRepository { host, repository }
            }
            StatusCode::NOT_FOUND if spoke || self.is_registry().await => {
                RegistryError::NotFound { host, repository, wanted: wanted.to_owned() }
            }
            StatusCode::NOT_FOUND => {
                let why = "it knows no /v2/".to_owned();
                RegistryError::NotARegistry { host, why }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                RegistryError::Busy { host, after, said }
            }
            _ => RegistryError::Status { host, status: status.as_u16(), said },
        }
    }

    /// Whether a registry answers there, asked when an answer left that open.
    async fn is_registry(&self) -> bool {
        let url = self.server.at("/v2/");
        let make = || self.request(&Method::GET, &url, &[], None, Content::Whole(None));
        let Ok(given) = self.lines.ask(&self.server, Allowed::Any, make).await else {
            return false;
        };
        let (head, body) = given.into_parts();
        body.little(REFUSAL_BYTES_MAX).await;
        let html = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
        matches!(head.status, StatusCode::OK | StatusCode::UNAUTHORIZED) && !html
    }
}

/// A registry's own words for a refusal: the first ones.
#[derive(Default)]
struct Words {
    code: String,
    message: String,
}

impl Words {
    fn read(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Refusal {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let refusal: Refusal = serde_json::from_slice(bytes).ok()?;
        let first = refusal.errors.into_iter().next()?;
        Some(Self { code: first.code, message: plain(&first.message) })
    }
}

/// A stranger's words, short and without what moves a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(SAID_MAX).collect()
}
