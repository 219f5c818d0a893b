//! Archives into and out of payloads of ours, by the runtime's interface.

use std::io;
use std::path::Path;

use runtime::{Session, TaskId, Typed};

use super::ours::{heard, refused};
use super::{Ours, Running, Told};
use crate::complaint::chain;

/// As much as is sent at once.
const PIECE_BYTES: usize = 16 << 10;

impl Ours {
    /// What a path of it holds, as an archive: empty if it is refused. Behind the archive
    /// is what was complained of.
    pub(in crate::escape) fn copy_out(
        &mut self,
        running: &Running,
        path: &str,
    ) -> io::Result<Vec<u8>> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        self.tokio.block_on(async {
            match self.runtime.copy_out(&id, Path::new(path), None).await {
                Ok(mut session) => Ok(heard(&mut session.output).await?.0),
                Err(_refused) => Ok(Vec::new()),
            }
        })
    }

    /// Unpacks an archive at a path of it.
    pub(in crate::escape) fn copy_in(
        &mut self,
        running: &Running,
        path: &str,
        archive: &[u8],
    ) -> io::Result<Told> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        self.tokio.block_on(async {
            let Session { input, mut output } =
                match self.runtime.copy_in(&id, Path::new(path)).await {
                    Ok(session) => session,
                    Err(error) => return Ok(refused(chain(&error))),
                };
            let feed = async {
                for piece in archive.chunks(PIECE_BYTES) {
                    // It may have refused what came before.
                    if input.send(Typed::Bytes(piece.to_vec())).await.is_err() {
                        return;
                    }
                }
                let _ = input.send(Typed::End).await;
            };
            let ((), told) = tokio::join!(feed, heard(&mut output));
            let (text, end) = told?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines = text.lines().map(str::to_owned).collect();
            Ok(Told { refused: None, lines, end: format!("{end:?}") })
        })
    }
}
