//! What a registry wants to be shown: the `WWW-Authenticate` of an answer 401.
//!
//! Pure. A list of schemes, each with parameters whose values may be quoted. It comes from a
//! stranger: what cannot be read is passed over, and what is long is none. The scope that it
//! names is not read: what we want is ours to say.

/// Longest challenge that is looked at.
const BYTES_MAX: usize = 8 << 10;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token, given out elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// What to call ourselves the client of.
        service: Option<String>,
    },
}

impl Challenge {
    /// The best one among those in these headers: a token rather than a password.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers.filter(|header| header.len() <= BYTES_MAX) {
            for (scheme, parameters) in schemes(header) {
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if scheme.eq_ignore_ascii_case("bearer") {
                    let find = |wanted: &str| {
                        let mut named = parameters.iter();
                        let found = named.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                        found.map(|(_, value)| value.clone())
                    };
                    if let Some(realm) = find("realm") {
                        return Some(Self::Bearer { realm, service: find("service") });
                    }
                }
            }
        }
        basic
    }
}

type Scheme = (String, Vec<(String, String)>);

/// `Scheme name=value, name="value", Scheme …`.
fn schemes(header: &str) -> Vec<Scheme> {
    let mut found: Vec<Scheme> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let Some(after) = after.trim_start().strip_prefix('=') else {
            found.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = value(after.trim_start());
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (headers, wanted) in [
            (vec!["Basic realm=\"here\""], Some(Challenge::Basic)),
            (vec!["Basic"], Some(Challenge::Basic)),
            (
                vec![
                    "Bearer realm=\"https://auth/token\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                ],
                Some(bearer("https://auth/token", Some("s"))),
            ),
            (
                vec!["Basic realm=x, bearer Realm = \"r\\\"q\" , service=s"],
                Some(bearer("r\"q", Some("s"))),
            ),
            (vec!["Basic realm=x", "Bearer realm=y"], Some(bearer("y", None))),
            (vec!["Bearer service=\"without a realm\""], None),
            (vec!["Negotiate", "Digest realm=\"x\""], None),
            (vec![], None),
        ] {
            assert_eq!(Challenge::choose(headers.iter().copied()), wanted, "{headers:?}");
        }
    }

    #[test]
    fn odd_challenges_are_passed_over() {
        let long = format!("Basic realm=\"{}\"", "x".repeat(BYTES_MAX));
        for odd in ["", "=", ",,,", "\"", "=x", "a=\"", "ä=ö", "x=\"\\", &long, "= = = ,\" \\\""]
        {
            assert_eq!(Challenge::choose([odd].into_iter()), None, "{odd}");
        }
        // Cut off inside of its quotes: what is there is taken, and leads nowhere.
        assert!(Challenge::choose(["Bearer realm=\"x"].into_iter()).is_some());
    }
}
