//! The asking end.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::line::{Outcome, ReadError, RequestLine, ResponseLine, decode, encode, read_line, write_line};
use super::request::Request;
use super::response::{ApiError, Response};
use super::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, VERSION};

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no vipsecd listens on {0}")]
    NoDaemon(PathBuf),
    /// Somebody listens, but not for this user.
    #[error("no permission to talk to the vipsecd at {0}")]
    NoPermission(PathBuf),
    /// The socket failed.
    #[error("control socket {path}: {cause}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// No answer came in time.
    #[error("the vipsecd at {0} does not answer")]
    Timeout(PathBuf),
    /// The daemon closed the connection.
    #[error("the vipsecd at {0} closed the connection")]
    Closed(PathBuf),
    /// The answer can't be understood.
    #[error("the answer of the vipsecd at {path} can't be understood: {cause}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The daemon's own error.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`; later calls wait for `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(path.to_path_buf()),
            io::ErrorKind::PermissionDenied => ClientError::NoPermission(path.to_path_buf()),
            _ => ClientError::Io { path: path.to_path_buf(), cause },
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(timeout)).map_err(failed)?;
        stream.set_write_timeout(Some(timeout)).map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        let line = encode(&RequestLine { version: VERSION, request }, REQUEST_BYTES_MAX)
            .ok_or_else(|| self.protocol("the request is too long"))?;
        // A daemon that sends clients away answers before it was asked: read, even if writing failed.
        let written = write_line(self.stream.get_mut(), &line);
        let line = read_line(&mut self.stream, RESPONSE_BYTES_MAX).map_err(|error| match (error, written) {
            (ReadError::TooLong, _) => self.protocol("it is too long"),
            (ReadError::Io(cause), _) | (ReadError::Closed, Err(cause)) => self.io(cause),
            (ReadError::Closed, Ok(())) => ClientError::Closed(self.path.clone()),
        })?;
        let ResponseLine { outcome, .. } = decode(&line).map_err(|error| self.protocol(&error.to_string()))?;
        match outcome {
            Outcome::Ok(response) => Ok(response),
            Outcome::Error(error) => Err(error.into()),
        }
    }

    fn io(&self, cause: io::Error) -> ClientError {
        match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(self.path.clone()),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed(self.path.clone()),
            _ => ClientError::Io { path: self.path.clone(), cause },
        }
    }

    fn protocol(&self, cause: &str) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), cause: cause.to_owned() }
    }
}
