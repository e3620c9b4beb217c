//! Static files from the folder of `--path`: maps a URL path to a file and builds the response.

use std::fs;
use std::path::{Component, Path, PathBuf};

use percent_encoding::percent_decode_str;
use poem::error::InternalServerError;
use poem::http::HeaderValue;
use poem::http::header::X_CONTENT_TYPE_OPTIONS;
use poem::web::StaticFileRequest;
use poem::{FromRequest, IntoResponse, Request, Response};
use tokio::task::spawn_blocking;

/// Name of the file that is served for the path of a folder.
const INDEX: &str = "index.html";

/// A folder of static files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Path of the folder.
    pub path: PathBuf,
    /// Whether symbolic links can lead out of the folder, or to hidden files in it.
    pub follow_links: bool,
}

impl Folder {
    /// Returns the response to a `GET` or `HEAD` request, or `None` if the file does not exist.
    pub(super) async fn response(&self, request: &Request) -> poem::Result<Option<Response>> {
        let mut file_request = Request::builder().uri(request.uri().clone()).finish();
        file_request.headers_mut().clone_from(request.headers());
        let file_request = StaticFileRequest::from_request_without_body(&file_request).await?;
        let (folder, url_path) = (self.clone(), request.uri().path().to_owned());
        // A slow disk must not block the HTTP threads.
        let opened = spawn_blocking(move || {
            let file = folder.find(&url_path);
            file.map(|file| file_request.create_response(&file, true, false))
                .transpose()
        });
        let Some(file) = opened.await.map_err(InternalServerError)?? else {
            return Ok(None);
        };
        let mut response = file.into_response();
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(Some(response))
    }

    /// Returns the regular file for a URL path. Returns `None` if the file does not exist, or a component of its path
    /// starts with a dot.
    fn find(&self, url_path: &str) -> Option<PathBuf> {
        let decoded = percent_decode_str(url_path).decode_utf8().ok()?;
        let root = fs::canonicalize(&self.path).ok()?;
        let mut path = root.clone();
        for name in decoded.split('/').filter(|name| !name.is_empty()) {
            if !is_visible(name.as_ref()) {
                return None;
            }
            path.push(name);
        }
        if path.is_dir() {
            path.push(INDEX);
        }
        let path = fs::canonicalize(path).ok()?;
        let is_allowed = self.follow_links || path.strip_prefix(root).is_ok_and(is_visible);
        (is_allowed && path.is_file()).then_some(path)
    }
}

/// Whether a relative path consists of plain names that do not start with a dot.
fn is_visible(path: &Path) -> bool {
    path.components().all(|part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    })
}
