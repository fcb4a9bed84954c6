//! The HTML report: one file, no script, nothing loaded from elsewhere.
//!
//! ```
//! use report::{Block, Page, Section, Table};
//!
//! let mut section = Section::new("accuracy", "Accuracy");
//! section.push(Block::Table(Table::new(&["model", "R@1"]).row(&["unfiltered", "0.224"])));
//! let page = Page { title: "demo".into(), sections: vec![section], ..Page::default() };
//! let html = page.html()?;
//! assert!(html.contains("<td>unfiltered</td>"));
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Same data, same bytes. Reading order: [`Page`], [`Section`], [`Block`], then the pictures:
//! [`histogram`], [`lines`], [`dots`], [`scatter`], [`pie`]; [`viewer`] is another page.

mod bar;
mod chart;
mod dots;
mod page;
mod pie;
mod scale;
mod scatter;

pub mod viewer;

pub use bar::CountsBar;
pub use chart::{Histogram, Series, histogram, lines};
pub use dots::{Dot, DotRow, dots};
pub use page::{Block, Figure, Number, Page, Section, Table, Thumbnail};
pub use pie::pie;
pub use scatter::scatter;
