//! Contenders in other languages: they bring both processes, and are told how many cycles to run.

use crate::peers::Kind;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// A program that shares with a child of its own.
pub struct Foreign {
    child: Child,
    // Taken to close it, upon which the child ends.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Foreign {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// What to do so that it could take part.
    pub fn new(kind: Kind, bytes: usize) -> Result<Foreign, String> {
        let mut command = kind.command("share")?;
        command.arg(format!("vmalloc-bench-{}-share-{bytes}.", std::process::id()));
        command.arg(bytes.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Foreign { child, orders, answers })
    }

    /// Nanoseconds a cycle, of so many: the median of a few batches, as everyone's.
    pub fn ns_each(&mut self, count: usize) -> f64 {
        let batches: Vec<f64> = (0..crate::runner::BATCHES).map(|_| self.batch(count)).collect();
        crate::runner::quantile(&batches, 0.5)
    }

    fn batch(&mut self, count: usize) -> f64 {
        let orders = self.orders.as_mut().expect("it is taken by drop alone");
        writeln!(orders, "{count}").expect("a child that reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a child that answers");
        line.trim().parse().expect("nanoseconds; the child has said above what was wrong")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}
