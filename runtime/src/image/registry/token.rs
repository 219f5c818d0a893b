//! How a registry is shown who we are: by a password, or by a token that it has given out
//! elsewhere.
//!
//! A token is for one repository and what is to be done with it, and is kept as long as the
//! registry takes it. Several requests that are refused at once get one new token among them.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::challenge::Challenge;
use super::line::Content;
use super::refusal::REFUSAL_BYTES_MAX;
use super::session::{Answer, Session, Wish};
use super::url::{Url, escape};
use super::{Credential, RegistryError};

/// Longest token and what comes with it; those of large clouds have some 10 KiB.
const TOKEN_BYTES_MAX: usize = 256 << 10;

impl Session {
    /// Gets what the challenge of this answer wants, unless somebody got it meanwhile.
    pub(super) async fn renew(
        &self,
        shown: Option<String>,
        answer: Answer,
    ) -> Result<(), RegistryError> {
        let mut pass = self.pass.lock().await;
        if *pass != shown {
            return Ok(());
        }
        let challenges = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge = Challenge::choose(challenges.filter_map(|header| header.to_str().ok()));
        answer.body.little(REFUSAL_BYTES_MAX).await;
        let new = match challenge {
            None => return Err(self.unauthorised()),
            Some(Challenge::Basic) => self.credential.as_ref().and_then(Credential::basic),
            Some(Challenge::Bearer { realm, service }) => {
                Some(format!("Bearer {}", self.token(&realm, service.as_deref()).await?))
            }
        };
        // The same again would be refused again.
        if new.is_none() || new == shown {
            return Err(self.unauthorised());
        }
        *pass = new;
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RegistryError> {
        let url = Url::parse(realm).ok_or_else(|| self.nonsense("gives tokens at no address"))?;
        let url = self.check(url)?;
        let actions = if self.wish == Wish::Pull { "pull" } else { "pull,push" };
        let scope = format!("repository:{}:{actions}", self.repository);
        let (url, form) = match &self.credential {
            Some(Credential::Identity(token)) => (url, Some(form(token, service, &scope))),
            _ => {
                let url = service.map_or(url.clone(), |service| url.with("service", service));
                (url.with("scope", &scope), None)
            }
        };
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let kind = "application/x-www-form-urlencoded".to_owned();
        let headers: Vec<_> = form.iter().map(|_| (CONTENT_TYPE, kind.clone())).collect();
        let basic = self.credential.as_ref().and_then(Credential::basic);
        let make = || {
            let content = Content::Whole(form.clone().map(Bytes::from));
            self.request(&method, &url, &headers, basic.as_deref(), content)
        };
        let given = self.lines.ask(&url.server, self.allowed(&url.server), make).await?;
        let (head, body) = given.into_parts();
        match head.status {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.unauthorised());
            }
            _ => {
                let (status, headers) = (head.status, head.headers);
                let answer = Answer { status, headers, body, url, ours: true };
                return Err(self.refusal(answer, "token").await);
            }
        }
        let bytes = body.whole("a token", TOKEN_BYTES_MAX).await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|it| it.token.or(it.access_token)).filter(|it| !it.is_empty());
        token.ok_or_else(|| self.nonsense("gives something else than a token"))
    }

    pub(super) fn unauthorised(&self) -> RegistryError {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        match &self.credential {
            Some(_) => RegistryError::WrongCredentials { host, repository },
            None => RegistryError::NeedsCredentials { host, repository },
        }
    }
}

fn form(identity: &str, service: Option<&str>, scope: &str) -> String {
    format!(
        "grant_type=refresh_token&client_id=starling&service={}&scope={}&refresh_token={}",
        escape(service.unwrap_or_default()),
        escape(scope),
        escape(identity)
    )
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}
