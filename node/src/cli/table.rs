//! Borderless tables: upper-case headers, two spaces between columns.
//!
//! Every cell is one word or `-` except in the last column, so that `awk`
//! finds its column. Only the last column is ever cut, and only for a terminal.

use crate::cli::output::plain;

const GAP: &str = "  ";

/// Room for something of the last column, however narrow the terminal.
const LAST_WIDTH_MIN: usize = 12;

/// Rows under headers.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headers.len(), "a row has a cell for each header");
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { plain(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, no line wider than `width` where the last column can help it.
    pub(crate) fn print(&self, width: Option<usize>) -> String {
        let wide = |text: &str| text.chars().count();
        let columns = self.headers.len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                let widest = cells.map(|cell| wide(cell)).max().unwrap_or(0);
                widest.max(wide(self.headers[at]))
            })
            .collect();
        let before_last: usize =
            widths.iter().take(columns.saturating_sub(1)).map(|width| width + GAP.len()).sum();
        let room = width.map(|width| width.saturating_sub(before_last).max(LAST_WIDTH_MIN));
        let mut text = String::new();
        let headers: Vec<String> = self.headers.iter().map(|&header| header.to_owned()).collect();
        for row in std::iter::once(&headers).chain(&self.rows) {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                if at + 1 == columns {
                    line.push_str(&cut(cell, room));
                } else {
                    line.push_str(cell);
                    line.extend(std::iter::repeat_n(' ', widths[at] - wide(cell)));
                    line.push_str(GAP);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn cut(cell: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if cell.chars().count() > room => {
            cell.chars().take(room.saturating_sub(1)).chain(['…']).collect()
        }
        _ => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["TASK", "NODE", "COMMAND"]);
        table.row(["web.1".into(), "h1".into(), "sleep 1000".into()]);
        table.row(["long-name.12".into(), String::new(), "printf 'a\nb' and much more".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_empty_cells_are_dashes() {
        let expected = "TASK          NODE  COMMAND\n\
                        web.1         h1    sleep 1000\n\
                        long-name.12  -     printf 'a\\nb' and much more\n";
        assert_eq!(table().print(None), expected);
    }

    #[test]
    fn only_the_last_column_is_cut_for_a_terminal() {
        let text = table().print(Some(36));
        assert!(text.lines().all(|line| line.chars().count() <= 36), "{text}");
        assert!(text.ends_with("printf 'a\\nb' a…\n"), "{text}");
    }

    #[test]
    fn a_table_without_rows_still_has_its_headers() {
        assert_eq!(Table::new(["A", "B"]).print(None), "A  B\n");
    }
}
