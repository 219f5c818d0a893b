//! Builds a BPF program from its end to its start.
//!
//! Classic BPF only jumps forward, so what is jumped to must come later. Emitted
//! backwards, every target is there before its jump and no address is patched; where
//! one lies further than the 8 bits of a conditional jump reach, a far jump is put in
//! between.

/// A place in the program: how many instructions are at or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(u32);

/// The furthest that a conditional jump reaches, less one for the far jump that the
/// other side of the same branch may need.
const REACH: u32 = u8::MAX as u32 - 1;

/// Compares the loaded word with a constant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    Equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as isize,
    AtLeast = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as isize,
    AnyBit = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as isize,
}

const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

/// The program so far, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<u64>,
}

impl Assembler {
    /// Room for this many instructions.
    pub(super) fn with_capacity(instructions: usize) -> Self {
        Self { reversed: Vec::with_capacity(instructions) }
    }

    /// The whole program, first instruction first; the label must be the last emitted.
    pub(super) fn finish(mut self, start: Label) -> Vec<u64> {
        debug_assert_eq!(start, self.here());
        self.reversed.reverse();
        self.reversed
    }

    /// Ends the program with this verdict.
    pub(super) fn ret(&mut self, verdict: u32) -> Label {
        self.emit(RETURN, 0, 0, verdict)
    }

    /// Loads a word of `struct seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        if next != self.here() {
            let distance = self.distance(next);
            self.emit(JUMP, 0, 0, distance);
        }
        self.emit(LOAD, 0, 0, offset)
    }

    /// Goes to `yes` or to `no`.
    pub(super) fn branch(&mut self, test: Test, constant: u32, yes: Label, no: Label) -> Label {
        let yes = self.within_reach(yes);
        let no = self.within_reach(no);
        // Both fit: see `within_reach`.
        let (jump_yes, jump_no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.emit(test as u32, jump_yes, jump_no, constant)
    }

    /// Goes to the label of the range that the loaded word is in, by halving. Each
    /// range begins at its number and ends where the next begins; the first begins at 0.
    pub(super) fn tree(&mut self, ranges: &[(u32, Label)]) -> Label {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low, high) {
            ([], high) => high.first().map_or(self.here(), |(_, label)| *label),
            (low, high) => {
                let start = high.first().map_or(0, |(start, _)| *start);
                let (yes, no) = (self.tree(high), self.tree(low));
                self.branch(Test::AtLeast, start, yes, no)
            }
        }
    }

    fn here(&self) -> Label {
        // A program has 4096 instructions at most, or the kernel refuses it.
        Label(self.reversed.len() as u32)
    }

    /// How many instructions are skipped by a jump from the next one to the label.
    fn distance(&self, to: Label) -> u32 {
        self.here().0 - to.0
    }

    fn within_reach(&mut self, label: Label) -> Label {
        if self.distance(label) <= REACH {
            return label;
        }
        let distance = self.distance(label);
        self.emit(JUMP, 0, 0, distance)
    }

    /// The layout of `struct sock_filter` as one word.
    fn emit(&mut self, code: u32, jump_yes: u8, jump_no: u8, constant: u32) -> Label {
        let word = u64::from(code as u16)
            | u64::from(jump_yes) << 16
            | u64::from(jump_no) << 24
            | u64::from(constant) << 32;
        self.reversed.push(word);
        self.here()
    }
}
