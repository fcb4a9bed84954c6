//! One error type for all rooms: what happened, where, and how to fix it.
//!
//! The rooms share one type because an error crosses several of them before a person reads it, and
//! the person needs the same three things each time. A broken sample is not an error: it is a row
//! with a reason (see [`crate::Counts`]).

use std::fmt;

/// What a failed run means for whoever started it; each kind is one exit code of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bug in clipmill, or a condition that no other kind describes. Exit code 1.
    Internal,
    /// The command line or the recipe is wrong; running again changes nothing. Exit code 2.
    Recipe,
    /// An input is missing, empty or broken as a whole; running again changes nothing. Exit code 3.
    Input,
    /// The output store refused or failed (disk full, no permission, no conditional put). Exit code 4.
    Store,
    /// Another run holds the output, or the output belongs to another recipe. Exit code 5.
    Conflict,
    /// The network failed as a whole (success rate collapsed, store unreachable). Exit code 6.
    Network,
    /// A model or its numbers are wrong (shape, name, non-finite loss). Exit code 7.
    Model,
    /// The machine has too little memory; another batch or machine is needed. Exit code 8.
    Memory,
    /// Stopped by a signal; what was committed stays, and the same command goes on. Exit code 130.
    Interrupted,
}

impl Kind {
    /// The exit code of the binary for this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Recipe => 2,
            Self::Input => 3,
            Self::Store => 4,
            Self::Conflict => 5,
            Self::Network => 6,
            Self::Model => 7,
            Self::Memory => 8,
            Self::Interrupted => 130,
        }
    }
}

/// What happened, where, and how to fix it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    context: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail as a whole.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind. `message` says what happened, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// A wrong command line or recipe.
    pub fn recipe(message: impl Into<String>) -> Self {
        Self::new(Kind::Recipe, message)
    }

    /// A missing, empty or broken input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A store that refused or failed.
    pub fn store(message: impl Into<String>) -> Self {
        Self::new(Kind::Store, message)
    }

    /// An output that another run holds or another recipe made.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// A network that failed as a whole.
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    /// A model, tensor or loss that is wrong.
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }

    /// A broken promise inside clipmill.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A stop by signal.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "stopped by a signal").hint("run the same command to go on")
    }

    /// Says where: a file, a shard and member, a tensor. The outermost place comes first.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.context.insert(0, place.to_string());
        self
    }

    /// Says how to fix it, as one sentence that starts with a verb.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause, whose text is appended to the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the error means for whoever started the run.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// How to fix it, if that is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.0.context {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} error: {self}", self.0.kind)?;
        match &self.0.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Turns any library's error into ours at the place where the words are known.
pub trait ResultExt<T> {
    /// An error of this kind, with the library's text as its cause.
    fn kind(self, kind: Kind, message: impl Into<String>) -> Result<T>;
    /// A missing or broken input.
    fn input(self, message: impl Into<String>) -> Result<T>;
    /// A store that refused or failed.
    fn store(self, message: impl Into<String>) -> Result<T>;
    /// A broken promise inside clipmill.
    fn internal(self, message: impl Into<String>) -> Result<T>;
    /// A model, tensor or loss that is wrong.
    fn model(self, message: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> ResultExt<T> for Result<T, E> {
    fn kind(self, kind: Kind, message: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::new(kind, message).because(source))
    }

    fn input(self, message: impl Into<String>) -> Result<T> {
        self.kind(Kind::Input, message)
    }

    fn store(self, message: impl Into<String>) -> Result<T> {
        self.kind(Kind::Store, message)
    }

    fn internal(self, message: impl Into<String>) -> Result<T> {
        self.kind(Kind::Internal, message)
    }

    fn model(self, message: impl Into<String>) -> Result<T> {
        self.kind(Kind::Model, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stand_before_the_message_outermost_first() {
        let error = Error::input("0 bytes").at("entry 000420017.jpg").at("shard 00042.tar");
        assert_eq!(error.to_string(), "shard 00042.tar: entry 000420017.jpg: 0 bytes");
    }

    #[test]
    fn a_cause_is_shown_after_the_message() {
        let error = Err::<(), _>(std::io::Error::other("disk on fire")).store("cannot write");
        assert_eq!(error.unwrap_err().to_string(), "cannot write: disk on fire");
    }

    #[test]
    fn every_kind_has_its_own_exit_code() {
        use Kind::{Conflict, Input, Internal, Interrupted, Memory, Model, Network, Recipe, Store};
        let kinds = [Internal, Recipe, Input, Store, Conflict, Network, Model, Memory, Interrupted];
        let codes: std::collections::BTreeSet<u8> = kinds.iter().map(|k| k.exit_code()).collect();
        assert_eq!(codes.len(), kinds.len());
    }
}
