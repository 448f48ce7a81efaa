//! What a person is told once everything runs.

use std::fmt::{self, Display};
use std::io::Write;

use crate::up::central::KnownSite;
use crate::up::folder::DataFolder;

/// Everything there is to know about a running instance.
pub struct Welcome<'a> {
    pub folder: &'a DataFolder,
    pub dashboard: String,
    pub sign_in: String,
    pub gateway: String,
    pub tls: Option<String>,
    pub shop: Option<String>,
    pub sites: Vec<KnownSite>,
}

impl Welcome<'_> {
    /// Says it on stdout, whoever listens.
    pub fn print(&self) {
        let _ = writeln!(std::io::stdout(), "{self}");
    }
}

impl Display for Welcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTideline is running.\n")?;
        writeln!(f, "  Dashboard  {}", self.dashboard)?;
        writeln!(f, "  Sign in    {}  (works once, for 24 hours)", self.sign_in)?;
        writeln!(f, "  Gateway    {}", self.gateway)?;
        if let Some(tls) = &self.tls {
            writeln!(f, "             {tls}  (TLS and HTTP/3)")?;
        }
        if let Some(shop) = &self.shop {
            writeln!(f, "  Demo shop  {shop}")?;
        }
        writeln!(f, "  API key    {}", self.folder.api_key_file().display())?;
        writeln!(f, "  Data       {}  (logs in its folder logs)", self.folder.root().display())?;
        writeln!(f)?;
        for site in &self.sites {
            writeln!(
                f,
                "Paste into the pages of {} (times in {}):\n  {}\n",
                site.site_id, site.timezone, site.snippet
            )?;
        }
        if self.sites.is_empty() {
            writeln!(
                f,
                "There is no site yet. Start with --site NAME=ORIGIN, such as --site shop=https://shop.example\n"
            )?;
        }
        write!(f, "Ctrl-C stops everything in order.")
    }
}
