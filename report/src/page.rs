//! What a page consists of.

use askama::Template;
use base64::Engine;
use stage::{Counts, Result, ResultExt};

use crate::bar::CountsBar;

/// A whole report.
#[derive(Debug, Clone, Default, Template)]
#[template(path = "page.html")]
pub struct Page {
    /// Heading and window title.
    pub title: String,
    /// One sentence under the heading.
    pub lead: String,
    /// Whether pictures are blurred until the reader asks for them: right for pictures from the
    /// web.
    pub blurred: bool,
    /// The sections in reading order.
    pub sections: Vec<Section>,
    /// Who made what is shown; one line each.
    pub credits: Vec<String>,
}

impl Page {
    /// The page as HTML.
    ///
    /// # Errors
    /// An internal error when the template fails.
    pub fn html(&self) -> Result<String> {
        self.render().internal("cannot render the report")
    }
}

/// A part of the page with a heading and a place in its contents.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Anchor: letters, digits, hyphens.
    pub id: String,
    /// Heading.
    pub title: String,
    /// Paragraphs under the heading.
    pub text: Vec<String>,
    /// Content.
    pub blocks: Vec<Block>,
}

impl Section {
    /// An empty section.
    #[must_use]
    pub fn new(id: &str, title: &str) -> Self {
        Self { id: id.to_owned(), title: title.to_owned(), ..Self::default() }
    }

    /// Appends a block.
    pub fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Appends a paragraph.
    pub fn say(&mut self, text: impl Into<String>) {
        self.text.push(text.into());
    }
}

/// One piece of content.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading below the section's.
    Heading(String),
    /// A paragraph between blocks.
    Note(String),
    /// The few numbers that matter most, large.
    Numbers(Vec<Number>),
    /// A table.
    Table(Table),
    /// `in = kept + dropped + failed` as a bar with its words.
    Counts(CountsBar),
    /// Drawings side by side, or one under the other where there is no room.
    Figures(Vec<Figure>),
    /// A drawing over the whole width.
    Wide(Figure),
    /// Pictures with captions.
    Pictures {
        /// What they have in common.
        title: String,
        /// The pictures.
        items: Vec<Thumbnail>,
    },
}

/// A number with its name.
#[derive(Debug, Clone)]
pub struct Number {
    /// What it is.
    pub label: String,
    /// The number as text.
    pub value: String,
    /// What it stands against: chance, before, unit.
    pub note: String,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// SVG, made by this crate.
    pub svg: String,
}

/// Rows under a head.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Column names.
    pub head: Vec<String>,
    /// Cells as text.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    #[must_use]
    pub fn row(mut self, cells: &[&str]) -> Self {
        self.rows.push(cells.iter().map(|c| (*c).to_owned()).collect());
        self
    }

    /// Whether all cells of a column are numbers, which stand on the right.
    #[must_use]
    pub fn is_number(&self, column: &usize) -> bool {
        let mut cells =
            self.rows.iter().filter_map(|row| row.get(*column)).filter(|cell| *cell != "–");
        let numeric = |cell: &String| {
            cell.chars().next().is_some_and(|c| c.is_ascii_digit() || c == '-' || c == '+')
        };
        !self.rows.is_empty() && cells.all(numeric)
    }
}

/// A picture with its caption.
#[derive(Debug, Clone)]
pub struct Thumbnail {
    /// `data:` URL.
    pub source: String,
    /// Caption of the pair.
    pub caption: String,
    /// Reason, score.
    pub note: String,
}

impl Thumbnail {
    /// A picture whose encoded bytes go into the page.
    #[must_use]
    pub fn new(picture: &[u8], caption: &str, note: &str) -> Self {
        let kind = if picture.starts_with(b"\x89PNG") {
            "png"
        } else if picture.starts_with(b"RIFF") {
            "webp"
        } else {
            "jpeg"
        };
        let data = base64::engine::general_purpose::STANDARD.encode(picture);
        Self {
            source: format!("data:image/{kind};base64,{data}"),
            caption: caption.chars().take(120).collect(),
            note: note.to_owned(),
        }
    }
}

impl From<&Counts> for CountsBar {
    fn from(counts: &Counts) -> Self {
        Self::new(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_web_is_escaped() {
        let mut section = Section::new("x", "<b>");
        section.push(Block::Pictures {
            title: "t".into(),
            items: vec![Thumbnail::new(b"\xff\xd8", "<script>alert(1)</script>", "a & b")],
        });
        let page = Page { title: "\"q\"".into(), sections: vec![section], ..Page::default() };
        let html = page.html().unwrap();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("&#60;script&#62;") || html.contains("&lt;script&gt;"), "{html}");
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let html = Page { title: "t".into(), ..Page::default() }.html().unwrap();
        assert!(html.contains("default-src 'none'"));
        assert!(
            !html.contains("http://") && !html.contains("https://") && !html.contains("<script")
        );
    }

    #[test]
    fn a_column_of_numbers_stands_on_the_right() {
        let table = Table::new(&["model", "R@1"]).row(&["a", "0.5"]).row(&["b", "–"]);
        assert!(!table.is_number(&0) && table.is_number(&1));
    }
}
