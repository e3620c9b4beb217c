//! The page at the root, for people: its files are a part of the program, or come from a folder of the operator's
//! (`--path`). Which paths are the API's, and what they answer, is somebody else's.

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
    Folder(Folder),
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
            Some(folder) => match folder.response(&request).await {
                Ok(Some(response)) => Some(response),
                // It may have been removed meanwhile.
                Ok(None) => own(std::slice::from_ref(&COMPLETION)),
                Err(error) if is_absence(&error) => own(std::slice::from_ref(&COMPLETION)),
                Err(error) => return Err(error),
            },
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
        Some(StaticFileError::NotFound)
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
    async fn hidden_files_and_what_links_lead_to_outside_are_not_served() {
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
        // An operator may let links lead elsewhere; paths with hidden names and devices are not served even then.
        for path in ["/out", "/folder-out", "/env"] {
            assert_eq!(get(&pages(true), path).await.2, "secret", "{path}");
        }
        for path in ["/.env", "/sub/.git/config", "/zeros"] {
            assert_eq!(get(&pages(true), path).await.0, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn files_of_a_folder_are_what_their_media_type_says() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "<script>").unwrap();
        let pages = Pages::Folder(Folder {
            path: folder.path().to_owned(),
            follow_links: false,
        });
        let api = poem::endpoint::make_sync(|_| StatusCode::NOT_FOUND.into_response());
        let endpoint = beside(api, |_| false, &pages).boxed();
        let asked = || Request::builder().uri("/a.txt".parse().unwrap());
        let response = endpoint.call(asked().finish()).await.unwrap();
        assert_eq!(response.header(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
        let tag = response.header(ETAG).unwrap();
        let again = asked().header(IF_NONE_MATCH, tag).finish();
        let again = endpoint.call(again).await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.header(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
    }

    #[test]
    fn a_slow_disk_does_not_hold_the_threads_that_answer() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "a").unwrap();
        let pages = Pages::Folder(Folder {
            path: folder.path().to_owned(),
            follow_links: false,
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            // File work waits for the only thread on which it may be done.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || released.recv());
            let mut answer = Box::pin(get(&pages, "/a.txt"));
            let patience = std::time::Duration::from_millis(50);
            assert!(tokio::time::timeout(patience, &mut answer).await.is_err());
            drop(release);
            assert_eq!(answer.await.2, "a");
            assert!(occupied.await.unwrap().is_err());
        });
    }

    #[test]
    fn a_browser_that_has_a_file_is_not_sent_it_again() {
        let first = answer(&COMPLETION, None);
        let tag = first.header(ETAG).unwrap();
        assert_eq!(answer(&COMPLETION, Some(tag.as_bytes())).status(), 304);
        assert_eq!(answer(&COMPLETION, Some(b"\"0\"")).status(), 200);
    }
}
