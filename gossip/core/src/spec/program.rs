//! What a task starts: a plain process, or a container.

use serde::{Deserialize, Serialize};

use crate::container::{ContainerSpec, ImageSpec, RootSpec};

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// A plain process of the host.
    Process {
        /// The program and its arguments; the program is looked up in `PATH`.
        argv: Vec<String>,
        /// The working directory; a scratch directory of its own where none is given.
        #[serde(default)]
        directory: Option<String>,
        /// `USER[:GROUP]` of the node, by name or number, for nodes that trust their jobs;
        /// an unprivileged one of its own where none is given.
        #[serde(default)]
        user: Option<String>,
        /// Files that lie in its scratch directory when it starts, as the one layer of an
        /// image; it starts there, then, and nowhere else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<ImageSpec>,
    },
    /// A container.
    Container(Box<ContainerSpec>),
}

impl Program {
    /// A plain process, as the unprivileged user that its node gives it.
    pub fn process(argv: Vec<String>, directory: Option<String>) -> Self {
        Self::Process { argv, directory, user: None, files: None }
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[String] {
        match self {
            Self::Process { argv, .. } => argv,
            Self::Container(container) => &container.argv,
        }
    }

    /// The image that whichever node runs it must have: that of a container, or the files
    /// that come with a process.
    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Self::Process { files, .. } => files.as_ref(),
            Self::Container(container) => container.image(),
        }
    }

    /// The same, to say which content it is.
    pub fn image_mut(&mut self) -> Option<&mut ImageSpec> {
        match self {
            Self::Process { files, .. } => files.as_mut(),
            Self::Container(container) => match &mut container.root {
                RootSpec::Image(image) => Some(image),
                RootSpec::Path(_) => None,
            },
        }
    }

    /// What runs, in short: its words, behind the name of its image where it has one.
    pub fn command(&self) -> String {
        let image = match self {
            Self::Container(container) => container.image(),
            Self::Process { .. } => None,
        };
        let words = image.map(|image| image.name.as_str()).into_iter();
        words.chain(self.argv().iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }

    /// Whether it may do without an argv: its image, or the job's entrypoint, says what runs.
    pub(super) fn has_own_command(&self) -> bool {
        let Self::Container(container) = self else { return false };
        match &container.root {
            RootSpec::Image(_) => container.entrypoint.is_none() || container.has_entrypoint(),
            RootSpec::Path(_) => container.has_entrypoint(),
        }
    }
}
