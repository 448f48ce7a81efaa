//! How far a run is: a bar on a terminal, a plain line every few seconds anywhere else.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::tally::Tally;

/// Between two updates of the bar.
const TICK: Duration = Duration::from_millis(250);
/// Between two plain lines.
const LINE: Duration = Duration::from_secs(5);

/// Shows the progress of a load of this length, for ever: drop it when the load is over.
pub async fn show(tally: &Tally, begin: Instant, length: Duration) {
    let bar = std::io::stderr().is_terminal().then(|| bar(length));
    let mut tick = tokio::time::interval(if bar.is_some() { TICK } else { LINE });
    loop {
        tick.tick().await;
        let elapsed = begin.elapsed();
        let figures = figures(tally);
        match &bar {
            Some(bar) => {
                bar.set_position(elapsed.min(length).as_millis() as u64);
                bar.set_message(figures);
            }
            None => eprintln!("{:>4.0} s  {figures}", elapsed.as_secs_f64()),
        }
    }
}

fn figures(tally: &Tally) -> String {
    let sums = tally.lock();
    let (sent, acknowledged) = (sums.sent.all(), sums.acknowledged.all());
    format!(
        "{} connected, {sent} sent, {acknowledged} acknowledged, {} waiting, {} dropped",
        sums.connections.open,
        sent.saturating_sub(acknowledged + sums.dropped.all()),
        sums.dropped.all(),
    )
}

fn bar(length: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:32.cyan} {msg}").expect("the template is valid");
    ProgressBar::new(length.as_millis() as u64).with_style(style)
}
