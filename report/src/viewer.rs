//! The page of `clipmill view`: three files, nothing loaded from elsewhere.
//!
//! The script asks `/api/info`, `/api/rows`, `/api/similar` and `/picture` of whoever served it, and
//! writes what it gets as text, never as markup.

/// `/`.
pub const HTML: &str = include_str!("../templates/view.html");
/// `/view.css`.
pub const CSS: &str = include_str!("../templates/view.css");
/// `/view.js`.
pub const JS: &str = include_str!("../templates/view.js");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else_and_writes_no_markup() {
        for text in [HTML, CSS, JS] {
            let addresses = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!addresses.contains("http://") && !addresses.contains("https://"));
        }
        assert!(!JS.contains("innerHTML") && !JS.contains("eval("));
        assert!(!HTML.contains(" on") || !HTML.contains("onclick"));
    }
}
