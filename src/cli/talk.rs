//! What people see while a command runs: stdout is data, stderr is talk.

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::{
    hub::{Watch, without_secrets},
    output::size,
};

/// Where a command's words go.
pub struct Talk {
    quiet: bool,
    json: bool,
}

impl Talk {
    pub fn new(quiet: bool, json: bool) -> Self {
        Self { quiet, json }
    }

    /// A line of talk.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            // A reader that went away is no reason to stop working.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// An error with its causes, in one paragraph.
    pub fn error(error: &anyhow::Error) {
        let mut causes: Vec<String> = Vec::new();
        for cause in error.chain().map(ToString::to_string) {
            // Transparent errors repeat their cause's words.
            if causes.last().is_none_or(|last| !last.contains(&cause)) {
                causes.push(cause);
            }
        }
        let _ = writeln!(std::io::stderr(), "error: {}", without_secrets(&causes.join(": ")));
    }

    /// A result: as JSON if asked, else as the text given.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { text() };
        match writeln!(std::io::stdout(), "{text}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A bar over `total` tokens on a terminal; on a pipe, nothing but the lines that [`Talk::say`] writes.
    pub fn tokens(&self, total: u64) -> Progress {
        self.bar(total, "{msg:10} {wide_bar} {human_pos}/{human_len} tokens · {per_sec} · {eta} left")
    }

    /// The same for training, whose message says most.
    pub fn training(&self, total: u64) -> Progress {
        self.bar(total, "{msg} {wide_bar} {per_sec} tokens · {eta} left")
    }

    /// The same over bytes.
    pub fn bytes(&self, total: u64) -> Progress {
        self.bar(
            total,
            "{msg:12} {wide_bar} {decimal_bytes}/{decimal_total_bytes} · {decimal_bytes_per_sec} · {eta} left",
        )
    }

    /// The same over steps of any kind, said in the message.
    pub fn steps(&self, total: u64) -> Progress {
        self.bar(total, "{msg} {wide_bar} {human_pos}/{human_len} · {eta} left")
    }

    fn bar(&self, total: u64, template: &str) -> Progress {
        let bar = if self.quiet || total == 0 || !std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        } else {
            ProgressBar::new(total)
        };
        let style = ProgressStyle::with_template(template).expect("the template is constant").progress_chars("━╸─");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar, visible: !self.quiet }
    }
}

/// A running count of tokens or bytes.
pub struct Progress {
    bar: ProgressBar,
    visible: bool,
}

impl Progress {
    pub fn now(&self, what: impl std::fmt::Display) {
        self.bar.set_message(what.to_string());
    }

    pub fn advance(&self, tokens: u64) {
        self.bar.inc(tokens);
    }

    /// Counts tokens that were done in an earlier run, so that rate and time left speak of this one.
    pub fn skip(&self, tokens: u64) {
        self.bar.set_length(self.bar.length().unwrap_or(0).saturating_sub(tokens));
    }

    /// A line above the bar.
    pub fn line(&self, line: impl std::fmt::Display) {
        if self.visible {
            if self.bar.is_hidden() {
                let _ = writeln!(std::io::stderr(), "{line}");
            } else {
                self.bar.println(line.to_string());
            }
        }
    }

    /// Counts what a transfer tells.
    pub fn watch(&self) -> Watch {
        let bar = self.bar.clone();
        Arc::new(move |bytes| bar.inc(bytes))
    }

    /// How far it is, in words, for those who see no bar.
    pub fn state(&self) -> String {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let left = match self.bar.eta().as_secs() {
            _ if done == 0 => String::new(),
            seconds @ 0..120 => format!(", about {seconds} s left"),
            seconds => format!(", about {} min left", seconds.div_ceil(60)),
        };
        format!("{} of {} done{left}", size(done), size(total))
    }

    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}
