//! Listens, and answers: the static shell to everyone on this machine, everything else to who has the token.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use coord_db::{ActorId, Config, Database, Error};
use maud::{DOCTYPE, html};
use process_host::{Stop, stop_signal};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::actions::{self, Action};
use crate::guard::{Guard, Head, Refusal, TOKEN_HEADER};
use crate::live::{self, Reader};
use crate::pages::{self, Address};
use crate::{html as pieces, picture};

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");
/// A lane with a mark, as the icon of the page.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' fill='%232b6cb0'/%3E%3Cpath d='M3 5h10M3 8h6M3 11h8' stroke='white' stroke-width='1.6'/%3E%3C/svg%3E";
/// Nothing is loaded from elsewhere, framed, or sent elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Bytes of randomness in the token.
const TOKEN_BYTES: usize = 24;
/// The maximum size of what a browser sends.
const MAX_BODY: usize = 64 * 1024;
/// How many browsers may wait for their first page.
const MAX_WAITING: usize = 16;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A loopback address.
    Address(SocketAddr),
    /// A Unix socket, which only its owner can use.
    Socket(PathBuf),
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub place: Place,
    /// Refuse every change.
    pub read_only: bool,
    /// On whose behalf changes are made.
    pub actor: ActorId,
}

/// What can be opened once the page is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The address for a browser, with the token.
    pub url: String,
    /// The socket behind it, which a tunnel has to bring to the port 8080 of the browser's machine.
    pub socket: Option<PathBuf>,
}

/// What every answer needs.
struct Shared {
    guard: Guard,
    database: PathBuf,
    config: Arc<Config>,
    actor: ActorId,
    requests: mpsc::Sender<live::Request>,
    stop: Stop,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removes the file of a socket, unless another one has taken its place.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity_of(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves until SIGINT or SIGTERM. `ready` is called once browsers can connect.
///
/// # Errors
/// [`Error::Invalid`] for an address that other machines can reach, and what the database or the system reports.
pub fn serve(database: &Path, config: Config, options: Options, ready: impl FnOnce(&Ready)) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("cannot start the event loop"))?;
    let served = runtime.block_on(run(database, Arc::new(config), options, ready));
    // What still runs in the background is a look at git.
    runtime.shutdown_background();
    served
}

async fn run(database: &Path, config: Arc<Config>, options: Options, ready: impl FnOnce(&Ready)) -> Result<(), Error> {
    let db = Database::open(database, &config.open_options())?;
    let stop = stop_signal()?;
    let token = token()?;
    let (listener, authority, port) = listen(&options.place).await?;
    let (sender, requests) = mpsc::channel(MAX_WAITING);
    let shared = Arc::new(Shared {
        guard: Guard::new(token.clone(), port, options.read_only),
        database: database.to_owned(),
        config: Arc::clone(&config),
        actor: options.actor,
        requests: sender,
        stop: stop.clone(),
    });
    let app = router(shared);
    let mut ends = stop.clone();
    let ended = async move { process_host::stop_requested(&mut ends).await };
    let socket = match &options.place {
        Place::Socket(path) => Some(path.clone()),
        Place::Address(_) => None,
    };
    let (answering, _file) = match listener {
        Listener::Tcp(listener) => (tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(ended).into_future()), None),
        Listener::Unix(listener, file) => {
            (tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(ended).into_future()), Some(file))
        }
    };
    ready(&Ready { url: format!("http://{authority}/#{token}"), socket });
    Reader::new(db, config, options.read_only, requests).run(stop).await;
    // A browser that sends a request slowly must not keep the process.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), answering).await;
    Ok(())
}

async fn listen(place: &Place) -> Result<(Listener, String, Option<u16>), Error> {
    match place {
        Place::Address(address) => {
            if !address.ip().is_loopback() {
                return Err(Error::Invalid(format!(
                    "{address} can be reached by other machines, and the page is for this one; listen on 127.0.0.1 and use a \
                     tunnel, such as ssh -L 8080:127.0.0.1:8080 HOST"
                )));
            }
            let what = format!("cannot listen on {address}");
            let listener = TcpListener::bind(address).await.map_err(io(&what))?;
            let bound = listener.local_addr().map_err(io(&what))?;
            Ok((Listener::Tcp(listener), bound.to_string(), Some(bound.port())))
        }
        Place::Socket(path) => {
            let what = format!("cannot listen on the socket {}", path.display());
            // The folder decides who can connect until the mode is set.
            let listener = match UnixListener::bind(path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    make_room(path).await?;
                    UnixListener::bind(path)
                }
                bound => bound,
            }
            .map_err(io(&what))?;
            let file = SocketFile { identity: identity_of(path), path: path.clone() };
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(path, mode).map_err(io(&what))?;
            Ok((Listener::Unix(listener, file), "localhost:8080".to_owned(), None))
        }
    }
}

/// Removes the socket that a killed process has left. What is no socket, and what somebody listens on, stays.
async fn make_room(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Err(Error::Refused(format!("{shown} exists and is no socket; remove it, or name another path with --socket")));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io(&format!("cannot remove the old socket {shown}")))
        }
        // Also where too many wait to be answered.
        _ => Err(Error::Refused(format!(
            "another loopctl web listens on {shown}; use the address that it printed, end it, or name another path with --socket"
        ))),
    }
}

fn io(context: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { context: context.to_owned(), source }
}

/// A token that nobody can guess.
fn token() -> Result<String, Error> {
    let mut bytes = [0; TOKEN_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(io("cannot read /dev/urandom for the token"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/page.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT) }))
        .route(
            "/page.css",
            get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], [picture::STYLE, STYLE].concat()) }),
        )
        .route("/live/{*page}", get(follow))
        .route("/live/", get(follow))
        .route("/part/{*part}", get(part))
        .route("/do/{action}", post(act))
        .fallback(get(shell))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guarded))
        .with_state(shared)
}

/// True for what has no data from the database.
fn is_static(uri: &Uri) -> bool {
    matches!(uri.path(), "/page.js" | "/page.css") || Address::parse(uri.path(), None).is_some()
}

/// Whether a request may be answered.
fn check(shared: &Shared, request: &Request) -> Result<(), Refusal> {
    let text = |name: header::HeaderName| single(request.headers(), &name);
    shared.guard.check(Head {
        changes: !matches!(*request.method(), Method::GET | Method::HEAD),
        is_static: is_static(request.uri()),
        host: text(header::HOST),
        // One that is no text, or stands there twice, is not ours.
        origin: request.headers().contains_key(header::ORIGIN).then(|| text(header::ORIGIN).unwrap_or_default()),
        token: text(header::HeaderName::from_static(TOKEN_HEADER)),
    })
}

async fn guarded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match check(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let (status, text) = refusal.answer();
            (StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), text).into_response()
        }
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The value of a header that occurs once.
fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

/// The document of every page: without data, which comes over the stream.
async fn shell(uri: Uri) -> Response {
    if Address::parse(uri.path(), None).is_none() {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "coding-loops" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href=(ICON);
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header #head {}
                main #main tabindex="-1" { p.nothing { "Loading …" } }
                div #said role="status" aria-live="polite" {}
                noscript { p.nothing { "This page needs JavaScript; without it, loopctl status --watch shows the same." } }
            }
        }
    };
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

async fn follow(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().strip_prefix("/live").unwrap_or_default();
    let Some(address) = Address::parse(path, uri.query()) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    let (reply, followed) = oneshot::channel();
    let asked = shared.requests.send(live::Request { address, reply }).await;
    match (asked, followed.await) {
        (Ok(()), Ok(followed)) => {
            Sse::new(live::events(followed, shared.stop.clone())).keep_alive(KeepAlive::default()).into_response()
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "loopctl web is stopping\n").into_response(),
    }
}

/// A piece of a page that is fetched when it is opened: a log, a difference.
async fn part(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().strip_prefix("/part/").unwrap_or_default().to_owned();
    let read = move || {
        let db = Database::open(&shared.database, &shared.config.open_options())?;
        pages::fetched(&db, &shared.config, &path)
    };
    match blocking(read).await {
        Ok(Some(markup)) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], markup.into_string()).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such part\n").into_response(),
        Err(error) => failed(&error),
    }
}

async fn act(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if single(&headers, &header::CONTENT_TYPE) != Some("application/json") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON\n").into_response();
    }
    let name = uri.path().strip_prefix("/do/").unwrap_or_default();
    let Some(action) = Action::parse(name, &body) else {
        return (StatusCode::BAD_REQUEST, "there is no such action\n").into_response();
    };
    let write = move || {
        let db = Database::open(&shared.database, &shared.config.open_options())?;
        actions::perform(&db, &shared.actor, &action)
    };
    match blocking(write).await {
        Ok(done) => done_response(&done),
        Err(error) => failed(&error),
    }
}

fn done_response(said: &str) -> Response {
    let body = serde_json::json!({ "said": pieces::line(said) }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}

fn failed(error: &Error) -> Response {
    let status = match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Refused(_) | Error::Settled { .. } | Error::IllegalMove { .. } => StatusCode::CONFLICT,
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, pieces::line(&process_host::exit::describe(error))).into_response()
}

/// Runs what waits for the database or for git on another thread.
async fn blocking<T: Send + 'static>(body: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let lost = |_| Error::Invalid("the request was interrupted; try again".to_owned());
    tokio::task::spawn_blocking(body).await.map_err(lost)?
}
