//! What a job is called if nobody says: after its program or its image, and some letters.

use gossip_core::slot::NAME_LENGTH_MAX;
use runtime::image::Reference;

use crate::api::types::Complaint;

/// `sleep-k3f9x` for `/bin/sleep 10`.
pub(super) fn name_for(program: &str, made_up: &str) -> String {
    let file = program.rsplit('/').next().unwrap_or_default().to_lowercase();
    let letters = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let room = NAME_LENGTH_MAX.saturating_sub(made_up.len() + 1);
    let label: String = file.chars().map(letters).take(room).collect();
    match label.trim_matches('-') {
        "" => format!("job-{made_up}"),
        label => format!("{label}-{made_up}"),
    }
}

/// The end of a made-up name: letters that are not mistaken for each other.
pub(super) fn made_up(mut random: u64) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut text = String::new();
    for _ in 0..5 {
        let at = usize::try_from(random % 32).unwrap_or(0);
        text.push(char::from(LETTERS[at]));
        random /= 32;
    }
    text
}

/// How many digits of an id a job is called after: what people are shown of one.
const ID_SHOWN: usize = 12;

/// `app` for `ghcr.io/owner/app:2.1`. The first digits of an id are good names, too.
pub(super) fn image_label(name: &str) -> Result<String, Complaint> {
    if let Some(digits) = name.strip_prefix("sha256:").filter(|it| is_id(it)) {
        return Ok(digits.chars().take(ID_SHOWN).collect());
    }
    if is_id(name) {
        return Ok(name.chars().take(ID_SHOWN).collect());
    }
    match name.parse::<Reference>() {
        Ok(reference) => Ok(reference.path().rsplit('/').next().unwrap_or_default().to_owned()),
        Err(bad) => Err(Complaint::new("bad_image", "that is no image").because(bad).hint(
            "write it like nginx:1.27; starling run --exec CMD   runs a program of the node, \
             --rootfs DIR|TAR CMD   one over its files",
        )),
    }
}

/// Whether it may be an image's id, or its beginning.
fn is_id(text: &str) -> bool {
    (4..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_name_is_a_name_however_odd_the_command() {
        for command in ["/", "...", "ü", &"x".repeat(200), "a b"] {
            let name = name_for(command, &made_up(u64::MAX));
            assert_eq!(gossip_core::slot::check_name(&name), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_job_is_called_after_the_last_part_of_its_images_name() {
        for (name, label) in [
            ("nginx", "nginx"),
            ("ghcr.io/owner/app:2.1", "app"),
            (
                "localhost:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "b",
            ),
            ("4bcff63911fc", "4bcff63911fc"),
            ("sha256:e3b0c44298fc1c149afbf4c8996fb924", "e3b0c44298fc"),
        ] {
            assert_eq!(image_label(name).expect(name), label);
        }
        for bad in ["", "/bin/sh", "./app", "Web", "a:", "a b", "nginx@sha256:12"] {
            let told = image_label(bad).expect_err(bad);
            assert!(told.hint.is_some_and(|hint| hint.contains("--exec")), "{bad}");
        }
    }
}
