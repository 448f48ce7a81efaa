//! `tideline up`: all roles and a private Redis on one machine, the way production runs them, only closer together.
//!
//! The folder is locked, Redis is found and the ports are tried before anything starts. Then, in the order in which they
//! need each other: Redis, central, the aggregator, the gateway. On the way out the same list is drained backwards, so
//! that what a page has sent still reaches central.

mod central;
mod certificate;
mod configs;
pub mod folder;
mod port;
mod process;
mod redis;
mod shop;
mod site;
mod welcome;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::central::{Central, KnownSite};
use self::certificate::OwnCertificate;
use self::configs::{Choices, Tls};
use self::folder::DataFolder;
use self::port::Reserved;
use self::process::{Addresses, Kept, Readiness, Spec};
use self::redis::RedisServer;
use self::shop::Snippet;
use self::site::Site;
use self::welcome::Welcome;
use crate::ready::Probe;
use crate::status::running::{self, Board};

const DATA: &str = "./data";
/// The demo's figures are invented and must never mix with real ones.
const DEMO_DATA: &str = "./demo-data";
/// Where the gateway is unless somebody chooses; where it has TLS then.
const GATEWAY_PORT: u16 = 8080;
const TLS_PORT: u16 = 8443;
const DEMO_SITE: &str = "demo";
/// Processes of a run that was killed die with it; the kernel needs a moment to bury them.
const LEFTOVERS_WAIT: Duration = Duration::from_secs(5);

/// Arguments of `tideline up`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where everything is kept; made if it is not there [default: ./data, or ./demo-data with --demo]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Also serve a small shop and let simulated visitors walk through it
    #[arg(long)]
    demo: bool,
    /// Where pages send their events (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    gateway: SocketAddr,
    /// Where dashboard and API are served (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    central: SocketAddr,
    /// Where the gateway also listens with TLS, and with HTTP/3 on the UDP port of the same number [default: port 8443
    /// beside port 8080, any free one beside another]
    #[arg(long, value_name = "ADDR")]
    tls: Option<SocketAddr>,
    /// A certificate for that, PEM; without one, one for this machine alone is made
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The gateway's URL as pages reach it, if it is not --gateway, such as `https://stats.example`
    #[arg(long, value_name = "URL", value_parser = public_url)]
    public_url: Option<String>,
    /// A site that is to exist; may be repeated
    #[arg(long = "site", value_name = "NAME=ORIGIN[,ORIGIN…][;TIMEZONE]")]
    sites: Vec<Site>,
    /// A MaxMind-format file for visitors' countries, regions and cities
    #[arg(long, value_name = "FILE")]
    geo_database: Option<PathBuf>,
    /// Where the demo's shop is served (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090", requires = "demo")]
    shop: SocketAddr,
    /// The demo's shop without simulated visitors
    #[arg(long, requires = "demo")]
    no_visitors: bool,
}

/// Runs everything until `stop`, then drains it.
pub async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    let data = args.data.clone().unwrap_or_else(|| PathBuf::from(if args.demo { DEMO_DATA } else { DATA }));
    let geo_database = args.geo_database.as_deref().map(|path| readable("--geo-database", path)).transpose()?;
    let redis = RedisServer::find().await?;
    let folder = DataFolder::open(&data)?;
    wait_for_leftovers(&folder).await?;
    let gateway = port::reserve("--gateway", args.gateway)?;
    port::check("--central", args.central)?;
    let tls = args.tls.unwrap_or_else(|| tls_beside(args.gateway));
    port::check("--tls", tls)?;
    port::check_udp("--tls", tls)?;
    let shop = if args.demo { Some(listen_for_shop(args.shop).await?) } else { None };

    // The demo's visitors come from networks that only the demo's own database knows.
    let geo_database = match geo_database {
        None if args.demo => Some(shop::write_places(&folder)?),
        given => given,
    };
    let own = match args.certificate {
        None => Some(OwnCertificate::make(&folder)?),
        Some(_) => None,
    };
    let (certificate, key) = match (&own, &args.certificate, &args.key) {
        (None, Some(certificate), Some(key)) => (readable("--certificate", certificate)?, readable("--key", key)?),
        (own, ..) => own.as_ref().map(|own| (own.file().to_owned(), own.file().to_owned())).unwrap_or_default(),
    };
    let choices = Choices {
        gateway_listen: gateway.address,
        tls: Tls { listen: tls, certificate, key },
        own_certificate: own,
        central_listen: args.central,
        gateway_url: args.public_url.clone().unwrap_or_else(|| port::url(gateway.address)),
        geo_database,
    };
    let mut roles = Roles::new(&folder)?;
    let served = tokio::select! {
        served = serve(&args, &choices, redis, gateway, shop, &mut roles, &stop) => served,
        () = stop.cancelled() => Ok(()),
    };
    roles.drain().await;
    info!("stopped");
    served
}

/// Starts everything, says hello, and goes on until `stop`; dropping it leaves only what `roles` keeps.
async fn serve(
    args: &Args,
    choices: &Choices,
    redis: RedisServer,
    gateway: Reserved,
    shop: Option<TcpListener>,
    roles: &mut Roles<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (central_listen, tls) = roles.start(choices, redis, gateway).await?;
    let tls = tls.map(port::url_with_tls);
    let key = std::fs::read_to_string(roles.folder.api_key_file()).context("cannot read the API key")?;
    let central = Central::try_new(port::url(central_listen), key.trim().to_owned())?;
    make_sites(&central, &args.sites).await?;
    let shop = match shop {
        Some(listener) => {
            let secure = tls.clone().zip(choices.own_certificate.clone());
            Some(open_shop(args, choices, secure, &central, listener, roles, stop).await?)
        }
        None => None,
    };
    if let Some(own) = &choices.own_certificate {
        tokio::spawn(own.clone().renew(stop.clone()));
    }
    let welcome = Welcome {
        folder: roles.folder,
        dashboard: port::url(central_listen),
        sign_in: central.sign_in_link().await?,
        gateway: choices.gateway_url.clone(),
        tls,
        shop,
        sites: central.sites().await?,
    };
    welcome.print();
    stop.cancelled().await;
    Ok(())
}

/// The processes in the order in which they were started.
struct Roles<'a> {
    folder: &'a DataFolder,
    program: PathBuf,
    probe: Probe,
    board: Arc<Board>,
    kept: Vec<Kept>,
}

impl<'a> Roles<'a> {
    fn new(folder: &'a DataFolder) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file, which runs every role")?;
        let board = Arc::new(Board::new(folder.run(running::FILE)));
        Ok(Self { folder, program, probe: Probe::try_new()?, board, kept: Vec::new() })
    }

    /// Starts one after the other, each when the one before is ready, and says where central serves, and the gateway with TLS. A configuration
    /// is written twice: with any port before the first start, with the port it got for every later one.
    async fn start(
        &mut self,
        choices: &Choices,
        redis: RedisServer,
        gateway_port: Reserved,
    ) -> anyhow::Result<(SocketAddr, Option<SocketAddr>)> {
        let folder = self.folder;
        let unknown = Addresses::default();
        let unwritable = || format!("cannot write into {}", folder.root().join("run").display());

        self.keep(redis.spec(folder).with_context(unwritable)?).await?;

        configs::write_central(folder, choices, unknown).with_context(unwritable)?;
        let central = self.keep(self.role("central")).await?;
        configs::write_central(folder, choices, central).with_context(unwritable)?;
        let (Some(listen), Some(uplink)) = (central.listen, central.uplink) else {
            anyhow::bail!("central does not say where it listens; see {}", folder.log("central").display());
        };

        configs::write_aggregator(folder, uplink, unknown).with_context(unwritable)?;
        let aggregator = self.keep(self.role("aggregator")).await?;
        configs::write_aggregator(folder, uplink, aggregator).with_context(unwritable)?;

        configs::write_gateway(folder, choices, uplink, unknown).with_context(unwritable)?;
        drop(gateway_port);
        let gateway = self.keep(self.role("gateway")).await?;
        configs::write_gateway(folder, choices, uplink, gateway).with_context(unwritable)?;
        Ok((listen, gateway.tls))
    }

    async fn keep(&mut self, spec: Spec) -> anyhow::Result<Addresses> {
        let (kept, addresses) = Kept::start(spec, self.probe.clone(), self.board.clone()).await?;
        self.kept.push(kept);
        Ok(addresses)
    }

    fn role(&self, role: &'static str) -> Spec {
        Spec {
            role,
            program: self.program.clone(),
            arguments: vec![role.into(), "--config".into(), configs::file(self.folder, role).into_os_string()],
            log: self.folder.log(role),
            readiness: Readiness::Role { address_file: configs::address_file(self.folder, role) },
        }
    }

    /// Gateway, aggregator, central, Redis: the last that was started first.
    async fn drain(mut self) {
        while let Some(kept) = self.kept.pop() {
            kept.drain().await;
        }
    }
}

async fn make_sites(central: &Central, sites: &[Site]) -> anyhow::Result<()> {
    for site in sites {
        central.make_site(site).await.with_context(|| format!("cannot make the site {}", site.name))?;
    }
    Ok(())
}

async fn listen_for_shop(address: SocketAddr) -> anyhow::Result<TcpListener> {
    port::check("--shop", address)?;
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on --shop {address}"))
}

/// Makes the shop's site and opens the shop, with its visitors; both end with `stop`. Answers the shop's URL.
async fn open_shop(
    args: &Args,
    choices: &Choices,
    secure: Option<(String, OwnCertificate)>,
    central: &Central,
    listener: TcpListener,
    roles: &Roles<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<String> {
    let address = listener.local_addr()?;
    let url = port::url(address);
    let site = Site { name: DEMO_SITE.to_owned(), origins: shop::origins(address), timezone: None };
    let KnownSite { snippet, .. } = central.make_site(&site).await?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let snippet = Snippet { line: snippet, secure };
            if let Err(error) = shop::serve(listener, snippet, stop).await {
                warn!(%error, "the shop closed");
            }
        }
    });
    if !args.no_visitors {
        let gateway = choices.gateway_url.clone();
        let visitors = loadtest::VisitorsConfig::new(gateway, DEMO_SITE.to_owned(), url.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = loadtest::simulate_visitors(visitors, stop).await {
                warn!(%error, "the simulated visitors stay away");
            }
        });
    }
    roles.board.change(|running| running.shop = Some(url.clone()));
    Ok(url)
}

/// After a kill the old processes may hold folders and ports a moment longer than their parent held the lock.
async fn wait_for_leftovers(folder: &DataFolder) -> anyhow::Result<()> {
    let Ok(running) = running::read(&folder.run(running::FILE)) else { return Ok(()) };
    let gone = async {
        while running.roles.iter().filter_map(|role| role.process).any(|process| process.lives()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LEFTOVERS_WAIT, gone).await.with_context(|| {
        let pids = running.roles.iter().filter_map(|role| role.process).filter(|process| process.lives());
        let pids: Vec<_> = pids.map(|process| process.pid.to_string()).collect();
        format!("processes of an earlier run still live (pid {}); end them and start again", pids.join(", "))
    })
}

/// Where TLS goes when nobody said: beside the gateway.
fn tls_beside(gateway: SocketAddr) -> SocketAddr {
    SocketAddr::new(gateway.ip(), if gateway.port() == GATEWAY_PORT { TLS_PORT } else { 0 })
}

/// The absolute path of a file that the gateway will read.
fn readable(flag: &str, path: &Path) -> anyhow::Result<PathBuf> {
    let open = std::fs::File::open(path).and_then(|_| std::path::absolute(path));
    open.with_context(|| format!("cannot read {flag} {}", path.display()))
}

/// A URL to which paths can be added.
fn public_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("{error}; write it as https://stats.example"))?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err("write scheme, host and perhaps port and path, such as https://stats.example".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;
