//! Files of an operator's folder (`--path`): which file a URL's path means, and its response.

use std::fs;
use std::path::{Component, Path, PathBuf};

use percent_encoding::percent_decode_str;
use poem::error::InternalServerError;
use poem::http::HeaderValue;
use poem::http::header::X_CONTENT_TYPE_OPTIONS;
use poem::web::StaticFileRequest;
use poem::{FromRequest, IntoResponse, Request, Response};
use tokio::task::spawn_blocking;

/// What a folder is asked for when its own path is requested.
const INDEX: &str = "index.html";

/// A folder whose files are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Whether links may lead out of the folder, or to hidden files in it.
    pub follow_links: bool,
}

impl Folder {
    /// The response to a `GET` or `HEAD`; `None` if there is no such file.
    pub(super) async fn response(&self, request: &Request) -> poem::Result<Option<Response>> {
        let mut asked = Request::builder().uri(request.uri().clone()).finish();
        asked.headers_mut().clone_from(request.headers());
        let asked = StaticFileRequest::from_request_without_body(&asked).await?;
        let (folder, url_path) = (self.clone(), request.uri().path().to_owned());
        // A slow disk must not hold the threads that answer requests.
        let opened = spawn_blocking(move || {
            let file = folder.find(&url_path);
            file.map(|file| asked.create_response(&file, true, false))
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

    /// The regular file that a URL's path means, if it may be served: no component of the path begins with a dot.
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
        let may_be_served = self.follow_links || path.strip_prefix(root).is_ok_and(is_visible);
        (may_be_served && path.is_file()).then_some(path)
    }
}

/// Whether a relative path has plain names only, none of which begins with a dot.
fn is_visible(path: &Path) -> bool {
    path.components().all(|part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    })
}
