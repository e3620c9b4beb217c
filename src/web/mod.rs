//! The web page at `/`: built-in files, or the folder of `--path`. Requests for paths of the API pass through to the
//! API's endpoint.

mod folder;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

pub use folder::Folder;
use poem::error::StaticFileError;
use poem::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use poem::http::{Method, StatusCode};
use poem::{Endpoint, Error, Request, Response};

/// A built-in file of the web page.
struct File {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// JavaScript client module for custom pages, which is served with `--path`, too.
const COMPLETION_MODULE: File = file("/completion.js", SCRIPT, include_str!("completion.js"));

const STYLE: &str = "text/css; charset=utf-8";

/// The built-in files. `vendor/` contains third-party libraries; `.ci/vendor_page.py` writes it.
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
    COMPLETION_MODULE,
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

/// Content security policy: resources only from this server, and no embedding in other pages.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'";

const fn file(path: &'static str, media_type: &'static str, text: &'static str) -> File {
    File {
        path,
        media_type,
        text,
    }
}

/// Files that make up the web page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// The built-in page.
    BuiltIn,
    /// The files of a folder.
    Folder(Folder),
}

/// Adds the web page to an API endpoint. `pages` serves `GET` and `HEAD` requests for existing files, unless the path
/// belongs to the API (`is_api`). `api` serves all other requests.
pub fn with_pages<A>(
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
            Pages::BuiltIn => None,
            Pages::Folder(folder) => Some(folder.clone()),
        },
    }
}

struct WithPages<A> {
    api: A,
    is_api: fn(&str) -> bool,
    folder: Option<Folder>,
}

impl<A: Endpoint<Output = Response>> Endpoint for WithPages<A> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        if !is_read || (self.is_api)(request.uri().path()) {
            return self.api.call(request).await;
        }
        let built_in = |files: &'static [File]| {
            let path = match request.uri().path() {
                "/index.html" => "/",
                path => path,
            };
            let file = files.iter().find(|file| file.path == path)?;
            let cached_tag = request.headers().get(IF_NONE_MATCH);
            Some(file_response(file, cached_tag.map(|tag| tag.as_bytes())))
        };
        let response = match &self.folder {
            None => built_in(&FILES),
            Some(folder) => match folder.response(&request).await {
                Ok(Some(response)) => Some(response),
                Ok(None) => built_in(std::slice::from_ref(&COMPLETION_MODULE)),
                // The file was removed after it was found.
                Err(error) if is_not_found(&error) => {
                    built_in(std::slice::from_ref(&COMPLETION_MODULE))
                }
                Err(error) => return Err(error),
            },
        };
        match response {
            Some(response) => Ok(response),
            None => self.api.call(request).await,
        }
    }
}

/// Whether the error means that the file does not exist.
fn is_not_found(error: &Error) -> bool {
    matches!(
        error.downcast_ref::<StaticFileError>(),
        Some(StaticFileError::NotFound)
    )
}

/// Returns the file, or status 304 if `cached_tag` shows that the browser already has the file.
fn file_response(file: &File, cached_tag: Option<&[u8]>) -> Response {
    let mut hash = DefaultHasher::new();
    file.text.hash(&mut hash);
    let tag = format!("\"{:016x}\"", hash.finish());
    let response = Response::builder()
        .header(ETAG, &tag)
        // The browser revalidates each time, because an updated server has updated files.
        .header(CACHE_CONTROL, "no-cache")
        .header(CONTENT_SECURITY_POLICY, POLICY)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(REFERRER_POLICY, "no-referrer");
    match cached_tag == Some(tag.as_bytes()) {
        true => response.status(StatusCode::NOT_MODIFIED).finish(),
        false => response
            .header(CONTENT_TYPE, file.media_type)
            .body(file.text),
    }
}

#[cfg(test)]
mod tests {
    use poem::{EndpointExt, IntoResponse};

    use super::*;

    /// Requests a path and returns status, media type and text.
    async fn get(pages: &Pages, path: &str) -> (u16, String, String) {
        let api = poem::endpoint::make_sync(|_| StatusCode::NOT_FOUND.into_response());
        let endpoint = with_pages(api, |path| path == "/health", pages).boxed();
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
    async fn all_files_that_the_page_references_are_served() {
        let (status, media, page) = get(&Pages::BuiltIn, "/").await;
        assert_eq!((status, media.as_str()), (200, "text/html; charset=utf-8"));
        let references = page.split(['"', '\'']).filter(|word| {
            [".js", ".css", ".svg"]
                .iter()
                .any(|extension| word.ends_with(extension))
        });
        let mut count = 0;
        for name in references {
            let (status, ..) = get(
                &Pages::BuiltIn,
                &format!("/{}", name.trim_start_matches('/')),
            )
            .await;
            assert_eq!(status, 200, "{name}");
            count += 1;
        }
        assert!(count >= 3, "{page}");
        assert!(
            !page.contains("<script>") && !page.contains("style=\""),
            "the content security policy forbids inline scripts and styles"
        );
        assert_eq!(get(&Pages::BuiltIn, "/nothing.js").await.0, 404);
        assert_eq!(get(&Pages::BuiltIn, "/health").await.0, 404);
    }

    #[tokio::test]
    async fn every_module_that_a_script_imports_is_served() {
        let mut count = 0;
        for file in FILES.iter().filter(|file| file.media_type == SCRIPT) {
            let imported = file.text.lines().filter(|line| line.starts_with("import "));
            for line in imported {
                let name = line.split('\'').nth(1).unwrap();
                let path = name.strip_prefix('.').unwrap();
                let (status, media, _) = get(&Pages::BuiltIn, path).await;
                assert_eq!((status, media.as_str()), (200, SCRIPT), "{line}");
                count += 1;
            }
        }
        assert!(count >= 9, "{count}");
    }

    #[tokio::test]
    async fn a_folder_replaces_the_page_but_not_the_completion_module() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("index.html"), "mine").unwrap();
        std::fs::write(root.join("health"), "not mine").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        let pages = Pages::Folder(Folder {
            path: root,
            follow_links: false,
        });
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

    #[cfg(unix)]
    #[tokio::test]
    async fn hidden_files_and_links_out_of_the_folder_are_not_served() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(".site");
        std::fs::create_dir_all(root.join("sub/.git")).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        std::fs::create_dir(folder.path().join("beside")).unwrap();
        std::fs::write(folder.path().join("beside/index.html"), "secret").unwrap();
        for (name, text) in [
            ("page.html", "page"),
            (".env", "secret"),
            ("sub/.git/config", "secret"),
            ("sub/index.html", "sub"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        symlink("../secret", root.join("out")).unwrap();
        symlink("../beside", root.join("folder-out")).unwrap();
        symlink(".env", root.join("env")).unwrap();
        symlink("page.html", root.join("within")).unwrap();
        symlink("/dev/zero", root.join("zeros")).unwrap();
        let pages = |follow_links| {
            Pages::Folder(Folder {
                path: root.clone(),
                follow_links,
            })
        };
        for path in [
            "/.env",
            "/%2eenv",
            "/sub/.git/config",
            "/sub%2F.git%2Fconfig",
            "/out",
            "/folder-out",
            "/folder-out/index.html",
            "/env",
            "/zeros",
        ] {
            assert_eq!(get(&pages(false), path).await.0, 404, "{path}");
        }
        for (path, text) in [
            ("/page.html", "page"),
            ("/within", "page"),
            ("/sub/", "sub"),
        ] {
            assert_eq!(get(&pages(false), path).await.2, text, "{path}");
        }
        // With `follow_links`, links can lead anywhere; hidden paths and devices are still not served.
        for path in ["/out", "/folder-out", "/env"] {
            assert_eq!(get(&pages(true), path).await.2, "secret", "{path}");
        }
        for path in ["/.env", "/sub/.git/config", "/zeros"] {
            assert_eq!(get(&pages(true), path).await.0, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn files_of_a_folder_are_served_with_nosniff_and_an_etag() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "<script>").unwrap();
        let pages = Pages::Folder(Folder {
            path: folder.path().to_owned(),
            follow_links: false,
        });
        let api = poem::endpoint::make_sync(|_| StatusCode::NOT_FOUND.into_response());
        let endpoint = with_pages(api, |_| false, &pages).boxed();
        let request = || Request::builder().uri("/a.txt".parse().unwrap());
        let response = endpoint.call(request().finish()).await.unwrap();
        assert_eq!(response.header(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
        let tag = response.header(ETAG).unwrap();
        let again = request().header(IF_NONE_MATCH, tag).finish();
        let again = endpoint.call(again).await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.header(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
    }

    #[test]
    fn a_slow_disk_does_not_block_the_http_threads() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "a").unwrap();
        let pages = Pages::Folder(Folder {
            path: folder.path().to_owned(),
            follow_links: false,
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            // File operations wait for the only blocking thread.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || released.recv());
            let mut response = Box::pin(get(&pages, "/a.txt"));
            let wait = std::time::Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, &mut response).await.is_err());
            drop(release);
            assert_eq!(response.await.2, "a");
            assert!(occupied.await.unwrap().is_err());
        });
    }

    #[test]
    fn a_cached_file_gets_a_304_response() {
        let first = file_response(&COMPLETION_MODULE, None);
        let tag = first.header(ETAG).unwrap();
        assert_eq!(
            file_response(&COMPLETION_MODULE, Some(tag.as_bytes())).status(),
            304
        );
        assert_eq!(
            file_response(&COMPLETION_MODULE, Some(b"\"0\"")).status(),
            200
        );
    }
}
