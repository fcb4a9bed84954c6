//! The sha256 of a file while it is written: by the writer, or by a thread beside it.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

/// Blocks that wait for the thread; each is as long as the writer's buffer.
const WAITING: usize = 4;

pub(crate) enum Digest {
    Here(Sha256),
    Beside(Beside),
}

/// A thread that hashes blocks in the order in which they come, and gives them back empty.
pub(crate) struct Beside {
    blocks: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl Digest {
    pub(crate) fn here() -> Self {
        Self::Here(Sha256::new())
    }

    /// Goes on in a thread of its own; without one to be had, here.
    pub(crate) fn beside(self) -> Self {
        let Self::Here(mut hasher) = self else { return self };
        let so_far = hasher.clone();
        let (blocks, received) = sync_channel::<Vec<u8>>(WAITING);
        let (empty, spare) = channel();
        let run = move || {
            for mut block in received {
                hasher.update(&block);
                block.clear();
                // The writer may have gone with an error of its own.
                let _ = empty.send(block);
            }
            hasher
        };
        match std::thread::Builder::new().name("sha256".to_owned()).spawn(run) {
            Ok(thread) => Self::Beside(Beside { blocks, spare, thread }),
            Err(_) => Self::Here(so_far),
        }
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// Takes what is borrowed; beside, that is a copy.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Here(hasher) => {
                hasher.update(bytes);
                Ok(())
            }
            Self::Beside(_) => self.take(&mut bytes.to_vec()),
        }
    }

    /// Takes what is in the buffer, which is empty afterwards.
    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Here(hasher) => {
                hasher.update(&buffer[..]);
                buffer.clear();
                Ok(())
            }
            Self::Beside(beside) => {
                let capacity = buffer.capacity();
                let next = beside.spare.try_recv();
                let next = next.unwrap_or_else(|_| Vec::with_capacity(capacity));
                let block = std::mem::replace(buffer, next);
                beside.blocks.send(block).map_err(|_| gone())
            }
        }
    }

    /// Lower-case hex.
    pub(crate) fn finish(self) -> io::Result<String> {
        let hasher = match self {
            Self::Here(hasher) => hasher,
            Self::Beside(Beside { blocks, spare, thread }) => {
                drop((blocks, spare));
                thread.join().map_err(|_| gone())?
            }
        };
        Ok(format!("{:x}", hasher.finalize()))
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that hashes ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_beside_hashes_what_the_writer_would_whenever_it_is_begun() {
        // printf 'abcdef' | sha256sum
        let expected = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
        for begin in 0..7 {
            let mut digest = Digest::here();
            for (i, letter) in b"abcdef".iter().enumerate() {
                if i == begin {
                    digest = digest.beside();
                }
                let mut block = vec![*letter];
                digest.take(&mut block).unwrap();
                assert!(block.is_empty());
            }
            assert_eq!(digest.finish().unwrap(), expected);
        }
    }
}
