//! The demo's shop: real pages that carry the snippet, on an origin of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{Embed, EmbeddedFile};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::certificate::OwnCertificate;
use super::folder::DataFolder;

/// Where a page wants its snippet.
const SNIPPET_MARK: &str = "<!-- tideline -->";
/// Every address below it is a view of one page.
const SINGLE_PAGE: &str = "app/";

#[derive(Embed)]
#[folder = "demo/shop/"]
struct Pages;

/// Where the simulated visitors are (`demo/places.py` makes it).
const PLACES: &[u8] = include_bytes!("../../demo/places.mmdb");

/// Puts the demo's database of places into the data folder, for the gateway to read.
pub fn write_places(folder: &DataFolder) -> anyhow::Result<PathBuf> {
    let path = folder.run("demo-places.mmdb");
    std::fs::write(&path, PLACES).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The line for pages.
#[derive(Clone, Debug)]
pub struct Snippet {
    /// As central gives it.
    pub line: String,
    /// Where the gateway speaks TLS, with a certificate that no browser knows: a page has to name it.
    pub secure: Option<(String, OwnCertificate)>,
}

impl Snippet {
    /// As it is now: the certificate changes.
    fn html(&self) -> String {
        let Some((url, certificate)) = &self.secure else { return self.line.clone() };
        let more = format!(" data-webtransport=\"{url}\" data-certificate-hash=\"{}\" data-site=", certificate.hash());
        self.line.replacen(" data-site=", &more, 1)
    }
}

/// Serves the shop with `snippet` in every page until `stop`.
pub async fn serve(listener: TcpListener, snippet: Snippet, stop: CancellationToken) -> std::io::Result<()> {
    let shop = Router::new().fallback(page).with_state(Arc::new(snippet));
    axum::serve(listener, shop).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// The origins as which a browser on this machine may know the shop.
pub fn origins(address: SocketAddr) -> Vec<String> {
    let mut origins = vec![super::port::url(address)];
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        origins.push(format!("http://localhost:{}", address.port()));
    }
    origins
}

async fn page(State(snippet): State<Arc<Snippet>>, uri: Uri) -> Response {
    let Some((file, path)) = find(uri.path()) else {
        return (StatusCode::NOT_FOUND, "no such page in this shop\n").into_response();
    };
    let kind = file.metadata.mimetype().to_owned();
    // Pages are asked for anew but may be kept for going back: `no-cache`, never `no-store`.
    let headers = [(header::CONTENT_TYPE, content_type(&kind)), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if !path.ends_with(".html") {
        return (headers, Body::from(file.data.into_owned())).into_response();
    }
    let html = String::from_utf8_lossy(&file.data).replace(SNIPPET_MARK, &snippet.html());
    (headers, html).into_response()
}

/// A file by its path, a folder by its `index.html`, a view of the single page by the page.
fn find(path: &str) -> Option<(EmbeddedFile, String)> {
    let path = path.trim_start_matches('/');
    let own = if path.is_empty() || path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
    let get = |path: String| Pages::get(&path).map(|file| (file, path));
    get(own).or_else(|| path.starts_with(SINGLE_PAGE).then(|| get(format!("{SINGLE_PAGE}index.html"))).flatten())
}

fn content_type(kind: &str) -> String {
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(url: &str) -> (StatusCode, String, String) {
        let answer = reqwest::get(url).await.unwrap();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        (answer.status(), kind.unwrap_or_default(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn pages_carry_the_snippet_and_views_answer_with_their_page() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let snippet = "<script defer src=\"http://127.0.0.1:1/tideline.js\" data-site=\"demo\"></script>";
        let data = tempfile::tempdir().unwrap();
        let certificate = OwnCertificate::make(&DataFolder::open(&data.path().join("data")).unwrap()).unwrap();
        let line = snippet.to_owned();
        let secure = Some(("https://127.0.0.1:2".to_owned(), certificate.clone()));
        let server = tokio::spawn(serve(listener, Snippet { line, secure }, stop.clone()));
        let more = "data-webtransport=\"https://127.0.0.1:2\" data-certificate-hash=";
        let snippet = snippet.replace("data-site", &format!("{more}\"{}\" data-site", certificate.hash()));

        let home = get(&format!("http://{address}/?utm_source=x")).await;
        assert_eq!((home.0, home.1.as_str()), (StatusCode::OK, "text/html; charset=utf-8"));
        assert!(home.2.contains(&snippet) && !home.2.contains(SNIPPET_MARK));
        let view = get(&format!("http://{address}/app/tides")).await;
        assert_eq!(view, get(&format!("http://{address}/app/")).await);
        assert!(view.2.contains(&snippet));
        let style = get(&format!("http://{address}/shop.css")).await;
        assert_eq!((style.0, style.1.as_str()), (StatusCode::OK, "text/css; charset=utf-8"));
        assert!(get(&format!("http://{address}/app/app.js")).await.1.contains("javascript"));
        assert_eq!(get(&format!("http://{address}/nothing")).await.0, StatusCode::NOT_FOUND);
        assert_eq!(get(&format!("http://{address}/../Cargo.toml")).await.0, StatusCode::NOT_FOUND);

        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[test]
    fn every_page_has_a_place_for_the_snippet() {
        let mut pages = 0;
        for path in Pages::iter().filter(|path| path.ends_with(".html")) {
            let file = Pages::get(&path).unwrap();
            assert_eq!(String::from_utf8_lossy(&file.data).matches(SNIPPET_MARK).count(), 1, "{path}");
            pages += 1;
        }
        assert!(pages >= 15, "{pages}");
    }

    #[test]
    fn a_browser_may_call_this_machine_localhost() {
        assert_eq!(origins("127.0.0.1:8090".parse().unwrap()), ["http://127.0.0.1:8090", "http://localhost:8090"]);
        assert_eq!(origins("192.0.2.7:8090".parse().unwrap()), ["http://192.0.2.7:8090"]);
    }
}
