//! A terminal that is written anew again and again, and tables for it. Text in, the screen out; on the caller's thread.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::platform::terminal;

/// The screen beside the shell's, without a cursor; both come back when it is dropped.
pub struct Screen {
    /// It would show how the cursor is moved: one look follows the other there.
    dumb: bool,
}

impl Screen {
    pub fn enter() -> Self {
        let dumb = terminal::is_dumb();
        if !dumb {
            write("\x1b[?1049h\x1b[?25l");
        }
        Self { dumb }
    }

    fn size(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)))
    }

    /// How wide it is.
    pub fn columns(&self) -> usize {
        self.size().1.max(20)
    }

    pub fn show(&mut self, text: &str) {
        if self.dumb {
            return write(&format!("{}\n\n", text.trim_end()));
        }
        let (rows, columns) = self.size();
        write(&format!("\x1b[H{}\x1b[J", fit(text, rows.max(2), columns.max(20))));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !self.dumb {
            write("\x1b[?25h\x1b[?1049l");
        }
    }
}

/// A terminal that is gone ends the loop by SIGHUP.
fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// `text` cut to the screen, each line to its end erased; the last line says what is left out.
fn fit(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &str| cut(line, columns) + "\x1b[K";
    if lines.len() <= rows {
        return lines.into_iter().map(cut).collect::<Vec<_>>().join("\n");
    }
    let more = format!("… {} more lines", lines.len() - (rows - 1));
    lines[..rows - 1].iter().copied().chain([more.as_str()]).map(cut).collect::<Vec<_>>().join("\n")
}

/// What of `line` fits into `columns`; colours take no room, and none goes on behind them.
fn cut(line: &str, columns: usize) -> String {
    let (mut out, mut room, mut coloured) = (String::new(), columns, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            coloured = true;
            out.push(character);
            for part in characters.by_ref() {
                out.push(part);
                if part.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            let Some(left) = room.checked_sub(character.width().unwrap_or(0)) else { break };
            out.push(character);
            room = left;
        }
    }
    if coloured { out + "\x1b[0m" } else { out }
}

/// Columns as wide as their widest cell on a terminal, where a Chinese letter takes two places and an accent of its own none.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let padded = |(cell, width): (&String, usize)| format!("{cell}{}", " ".repeat(width - cell.width()));
        let cells: Vec<String> = row.iter().zip(widths).map(padded).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_takes_as_many_lines_and_columns_as_it_has() {
        assert_eq!(fit("abc\nde", 2, 20), "abc\x1b[K\nde\x1b[K");
        assert_eq!(fit("\x1b[32mabcd\x1b[0mef", 2, 5), "\x1b[32mabcd\x1b[0me\x1b[0m\x1b[K");
        assert_eq!(fit("abcdef\nb\nc\nd", 3, 4), "abcd\x1b[K\nb\x1b[K\n… 2 \x1b[K");
        assert_eq!(fit("門口ab", 1, 5), "門口a\x1b[K");
        assert_eq!(fit("門口ab", 1, 3), "門\x1b[K");
    }

    #[test]
    fn columns_stand_below_one_another_whatever_alphabet_their_names_are_in() {
        let row = |name: &str, score: &str| [name.to_owned(), score.to_owned()];
        let text = table(&[row("label", "score"), row("門口", "1"), row("cafe\u{301}", "2")]);
        assert_eq!(text, "label  score\n門口   1\ncafe\u{301}   2");
    }
}
