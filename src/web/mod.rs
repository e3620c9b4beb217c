//! The page at the root, for people: its files are a part of the program, or come from a folder of the operator's
//! (`--path`). Which paths are the API's, and what they answer, is somebody else's.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use poem::endpoint::StaticFilesEndpoint;
use poem::error::StaticFileError;
use poem::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use poem::http::{Method, StatusCode};
use poem::{Endpoint, Error, Request, Response};

/// A file of the page.
struct File {
    path: &'static str,
    media: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The module that pages import: it is there whatever `--path` says.
const COMPLETION: File = file("/completion.js", SCRIPT, include_str!("completion.js"));

const STYLE: &str = "text/css; charset=utf-8";

/// The page's own files, and in `vendor/` the libraries of others: `.ci/vendor_page.py` writes that folder.
const FILES: [File; 15] = [
    file("/", "text/html; charset=utf-8", include_str!("index.html")),
    file("/style.css", STYLE, include_str!("style.css")),
    file("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    file("/app.js", SCRIPT, include_str!("app.js")),
    file("/markdown.js", SCRIPT, include_str!("markdown.js")),
    file("/server.js", SCRIPT, include_str!("server.js")),
    file("/settings.js", SCRIPT, include_str!("settings.js")),
    file("/store.js", SCRIPT, include_str!("store.js")),
    file("/syntax.js", SCRIPT, include_str!("syntax.js")),
    COMPLETION,
    file(
        "/vendor/markdown-it.js",
        SCRIPT,
        include_str!("vendor/markdown-it.js"),
    ),
    file(
        "/vendor/purify.js",
        SCRIPT,
        include_str!("vendor/purify.js"),
    ),
    file("/vendor/temml.js", SCRIPT, include_str!("vendor/temml.js")),
    file("/vendor/temml.css", STYLE, include_str!("vendor/temml.css")),
    file(
        "/vendor/LICENSES.txt",
        "text/plain; charset=utf-8",
        include_str!("vendor/LICENSES.txt"),
    ),
];

/// The page loads nothing from elsewhere, and no other page shows it.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'";

const fn file(path: &'static str, media: &'static str, text: &'static str) -> File {
    File { path, media, text }
}

/// Where the page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// The program's own.
    Own,
    /// The files of this folder.
    Folder(PathBuf),
}

/// An endpoint that answers `GET` and `HEAD` of what is no path of the API (`is_api`) with a file, if there is one, and leaves all
/// else to `api`.
pub fn beside<A>(
    api: A,
    is_api: fn(&str) -> bool,
    pages: &Pages,
) -> impl Endpoint<Output = Response> + use<A> + 'static
where
    A: Endpoint<Output = Response> + 'static,
{
    WithPages {
        api,
        is_api,
        folder: match pages {
            Pages::Own => None,
            Pages::Folder(folder) => {
                Some(StaticFilesEndpoint::new(folder).index_file("index.html"))
            }
        },
    }
}

struct WithPages<A> {
    api: A,
    is_api: fn(&str) -> bool,
    folder: Option<StaticFilesEndpoint>,
}

impl<A: Endpoint<Output = Response>> Endpoint for WithPages<A> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if !reads || (self.is_api)(request.uri().path()) {
            return self.api.call(request).await;
        }
        let own = |files: &'static [File]| {
            let path = match request.uri().path() {
                "/index.html" => "/",
                path => path,
            };
            let file = files.iter().find(|file| file.path == path)?;
            let known = request.headers().get(IF_NONE_MATCH);
            Some(answer(file, known.map(|tag| tag.as_bytes())))
        };
        let answered = match &self.folder {
            None => own(&FILES),
            Some(folder) => {
                let mut asked = Request::builder().uri(request.uri().clone()).finish();
                asked.headers_mut().clone_from(request.headers());
                match folder.call(asked).await {
                    Ok(response) => Some(response),
                    Err(error) if is_absence(&error) => own(std::slice::from_ref(&COMPLETION)),
                    Err(error) => return Err(error),
                }
            }
        };
        match answered {
            Some(response) => Ok(response),
            None => self.api.call(request).await,
        }
    }
}

/// Whether it says that there is no such file.
fn is_absence(error: &Error) -> bool {
    matches!(
        error.downcast_ref::<StaticFileError>(),
        Some(
            StaticFileError::NotFound
                | StaticFileError::InvalidPath
                | StaticFileError::Forbidden(_)
        )
    )
}

/// The file, or that the browser has it.
fn answer(file: &File, known: Option<&[u8]>) -> Response {
    let mut hash = DefaultHasher::new();
    file.text.hash(&mut hash);
    let tag = format!("\"{:016x}\"", hash.finish());
    let response = Response::builder()
        .header(ETAG, &tag)
        // A newer program has newer files: the browser asks each time whether its own are those.
        .header(CACHE_CONTROL, "no-cache")
        .header(CONTENT_SECURITY_POLICY, POLICY)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(REFERRER_POLICY, "no-referrer");
    match known == Some(tag.as_bytes()) {
        true => response.status(StatusCode::NOT_MODIFIED).finish(),
        false => response.header(CONTENT_TYPE, file.media).body(file.text),
    }
}

#[cfg(test)]
mod tests {
    use poem::{EndpointExt, IntoResponse};

    use super::*;

    /// What a path answers: status, media type, the text's beginning.
    async fn get(pages: &Pages, path: &str) -> (u16, String, String) {
        let api = poem::endpoint::make_sync(|_| StatusCode::NOT_FOUND.into_response());
        let endpoint = beside(api, |path| path == "/health", pages).boxed();
        let request = Request::builder().uri(path.parse().unwrap()).finish();
        let response = endpoint.call(request).await.unwrap();
        let media = response.content_type().unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        (
            status,
            media,
            response.into_body().into_string().await.unwrap(),
        )
    }

    #[tokio::test]
    async fn the_page_needs_nothing_that_is_not_there() {
        let (status, media, page) = get(&Pages::Own, "/").await;
        assert_eq!((status, media.as_str()), (200, "text/html; charset=utf-8"));
        let named = page.split(['"', '\'']).filter(|word| {
            [".js", ".css", ".svg"]
                .iter()
                .any(|end| word.ends_with(end))
        });
        let mut count = 0;
        for name in named {
            let (status, ..) =
                get(&Pages::Own, &format!("/{}", name.trim_start_matches('/'))).await;
            assert_eq!(status, 200, "{name}");
            count += 1;
        }
        assert!(count >= 3, "{page}");
        assert!(
            !page.contains("<script>") && !page.contains("style=\""),
            "the policy forbids them"
        );
        assert_eq!(get(&Pages::Own, "/nothing.js").await.0, 404);
        assert_eq!(get(&Pages::Own, "/health").await.0, 404);
    }

    #[tokio::test]
    async fn every_module_that_a_script_imports_is_served() {
        let mut count = 0;
        for file in FILES.iter().filter(|file| file.media == SCRIPT) {
            let imported = file.text.lines().filter(|line| line.starts_with("import "));
            for line in imported {
                let name = line.split('\'').nth(1).unwrap();
                let path = name.strip_prefix('.').unwrap();
                let (status, media, _) = get(&Pages::Own, path).await;
                assert_eq!((status, media.as_str()), (200, SCRIPT), "{line}");
                count += 1;
            }
        }
        assert!(count >= 9, "{count}");
    }

    #[tokio::test]
    async fn a_folder_takes_the_pages_place_and_the_module_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("index.html"), "mine").unwrap();
        std::fs::write(root.join("health"), "not mine").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        let pages = Pages::Folder(root);
        assert_eq!(get(&pages, "/").await.2, "mine");
        assert_eq!(get(&pages, "/app.js").await.0, 404);
        assert_eq!(get(&pages, "/vendor/temml.js").await.0, 404);
        assert_eq!(get(&pages, "/health").await.0, 404);
        assert!(
            get(&pages, "/completion.js")
                .await
                .2
                .contains("llamaComplete")
        );
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/a/../../secret",
            "//secret",
        ] {
            let (status, _, text) = get(&pages, path).await;
            assert!(status == 404 && text != "secret", "{path}: {status} {text}");
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_not_sent_it_again() {
        let first = answer(&COMPLETION, None);
        let tag = first.header(ETAG).unwrap();
        assert_eq!(answer(&COMPLETION, Some(tag.as_bytes())).status(), 304);
        assert_eq!(answer(&COMPLETION, Some(b"\"0\"")).status(), 200);
    }
}
