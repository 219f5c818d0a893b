//! `--cidfile`: where scripts find the id of what they started.
//!
//! The file is made before anything is submitted, because an old one would be taken for this
//! job's, and it is gone again if there comes to be no job.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use gossip_core::id::JobId;

use crate::api::types::Complaint;

/// Where a job's id is written.
#[derive(Debug)]
pub(crate) struct IdFile {
    path: PathBuf,
    file: std::fs::File,
    written: bool,
}

impl IdFile {
    /// An empty one.
    pub(crate) fn make(path: &Path) -> Result<Self, Complaint> {
        let made = std::fs::File::create_new(path);
        let file = made.map_err(|error| {
            Complaint::new("bad_file", format!("--cidfile {} cannot be made", path.display()))
                .because(error)
                .hint("remove the file, or name another; nothing was started")
        })?;
        Ok(Self { path: path.to_owned(), file, written: false })
    }

    /// There is a job. A disk that is full is a warning, for the job runs all the same.
    pub(crate) fn write(mut self, job: JobId) -> Result<(), String> {
        let written = self.file.write_all(job.to_string().as_bytes());
        self.written = written.is_ok();
        let path = self.path.display();
        written.map_err(|error| format!("the job's id is not in {path}: {error}"))
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            // Whoever looks into it finds nothing.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_new_and_holds_an_id_or_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("id");
        drop(IdFile::make(&path).expect("made"));
        assert!(!path.exists(), "there is no job");
        IdFile::make(&path).expect("made").write(JobId::new([7; 16])).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "07".repeat(16));
        let again = IdFile::make(&path).expect_err("it is there");
        assert!(again.hint.is_some_and(|hint| hint.contains("remove the file")));
        assert!(path.exists(), "another job's");
    }
}
