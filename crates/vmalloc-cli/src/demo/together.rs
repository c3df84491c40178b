//! The part of the linux demo in which several processes work on one block.
//!
//! ```text
//!   token ─▶ each attaches, checks the pattern, says where it has it
//!         ─▶ each writes its part, all see all of it
//!         ─▶ the last is killed; recovery finds what it held, the block is whole
//! ```

use super::linux::Stage;
use super::member::{address, part, parts_are_right};
use super::others::{Other, Task};
use super::summary::{self, Frames, Recovered};
use super::tell::check;
use crate::args::Way;
use crate::failure::{Done, Failure};
use crate::show::{count, count_of, thousands};
use crate::size::Size;
use vmalloc::Shared;

impl Stage<'_> {
    /// Starts the other members and waits until each has checked the block.
    pub fn attach_others(
        &mut self,
        task: &Task,
        block: &Shared,
        frames: Option<Frames>,
        members: &mut Vec<summary::Member>,
    ) -> Result<Vec<Other>, Failure> {
        self.tell.step(format_args!(
            "{} attach by that token",
            count_of(u64::from(task.parts) - 1, "more process", "more processes")
        ))?;
        self.tell.say(format_args!(
            "pid {}: the first, member {}: block at {:#x}",
            std::process::id(),
            self.pool.member_number(),
            address(block)
        ))?;
        let start = |part| Other::start(&self.pool, task, part);
        let mut others = (1..task.parts).map(start).collect::<Result<Vec<Other>, Failure>>()?;
        let mut same_frames = true;
        for other in &mut others {
            let attached = other.attached()?;
            let way = match other.way {
                Way::Path => "opened it by /proc/PID/fd/N",
                Way::Socket => "got it over a Unix socket",
                Way::Inherited => "inherited it",
            };
            let length = block.len() as u64;
            check(
                attached.pid == other.pid() && attached.checked_bytes == length,
                format_args!("process {} checked {} bytes", attached.pid, attached.checked_bytes),
            )?;
            self.tell.say(format_args!(
                "pid {}: {way}, member {}: block at {:#x}, pattern intact, {}",
                attached.pid,
                attached.number,
                attached.address,
                count(attached.vmas as u64, "VMA"),
            ))?;
            same_frames &= attached.frames.is_some() && attached.frames == frames;
            members.push(summary::Member {
                pid: Some(attached.pid),
                way: Some(other.way),
                address: attached.address,
                checked_bytes: attached.checked_bytes,
                wrote_bytes: 0,
                killed: false,
            });
        }
        let mut addresses: Vec<u64> = members.iter().map(|m| m.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        // Unequal: we may not know, or the kernel moved a frame between two looks.
        let same =
            if same_frames { ", and by all their page tables the very same frames" } else { "" };
        self.tell.say(format_args!(
            "{} at {}: one memory{same}.",
            count(members.len() as u64, "mapping"),
            count_of(addresses.len() as u64, "address", "addresses"),
        ))?;
        Ok(others)
    }

    /// Each of the others writes its part, and the first sees it.
    pub fn write_parts(
        &mut self,
        block: &Shared,
        key: u64,
        others: &mut [Other],
        members: &mut [summary::Member],
    ) -> Done {
        self.tell.step("Each writes its part")?;
        for other in &mut *others {
            let bytes = other.write()?;
            members[other.part as usize].wrote_bytes = bytes;
            let part = part(block.len(), other.part, self.setup.members);
            self.tell.say(format_args!(
                "pid {} wrote {} from byte {}",
                other.pid(),
                Size(bytes),
                thousands(part.start as u64)
            ))?;
        }
        check(
            parts_are_right(block, key, self.setup.members),
            "what the others wrote is not what the first member reads",
        )?;
        others.iter_mut().try_for_each(Other::check)?;
        self.tell.say("All see all of it, word for word, without a copy or a message.")
    }

    /// Waits, if that was asked for, for others to look at the pool as it is now.
    pub fn stay(&mut self) -> Done {
        if self.setup.stay.is_zero() {
            return Ok(());
        }
        let pid = std::process::id();
        self.tell.say(format_args!(
            "Now it stays so for {} s. In another terminal: vmalloc top {pid}, vmalloc map {pid}, \
             vmalloc info {pid}.",
            self.setup.stay.as_secs()
        ))?;
        std::thread::sleep(self.setup.stay);
        Ok(())
    }

    /// Kills the last member in the middle of things.
    pub fn kill_one(
        &mut self,
        block: &Shared,
        key: u64,
        others: &mut Vec<Other>,
        members: &mut [summary::Member],
    ) -> Result<Recovered, Failure> {
        self.tell.step("One is killed")?;
        let mut victim = others.pop().ok_or_else(|| Failure::new("demo: nobody to kill"))?;
        // Room for an area of its own: one of ours, and its frames change hands.
        let given = self.areas.iter_mut().find_map(Option::take);
        let bytes = given.as_deref().map_or(0, <[u8]>::len);
        drop(given);
        if bytes > 0 {
            victim.hold(bytes)?;
        }
        let (pid, part) = (victim.pid(), victim.part as usize);
        victim.kill()?;
        members[part].killed = true;
        self.tell.say(format_args!(
            "pid {pid} got SIGKILL, attached to the block and with {} of its own.",
            Size(bytes as u64)
        ))?;
        let dead = self.pool.members().into_iter().find(|m| m.pid == pid);
        check(
            dead.is_some_and(|m| m.alive == Some(false)),
            format_args!("the pool takes pid {pid} for {dead:?}"),
        )?;
        let found = self.pool.recover();
        check(
            found.detached == 1 && found.areas == usize::from(bytes > 0),
            format_args!("recovery found {found:?}"),
        )?;
        self.tell.say(format_args!(
            "Its lock fell, so the pool knows. Recovered: {} of its own, {}.",
            count(found.areas as u64, "area"),
            count(found.detached as u64, "attachment")
        ))?;
        check(parts_are_right(block, key, self.setup.members), "the kill damaged the block")?;
        others.iter_mut().try_for_each(Other::check)?;
        self.tell.say("The block is whole, the dead one's part too; the others went on.")?;
        Ok(Recovered { areas: found.areas, detached: found.detached })
    }
}
