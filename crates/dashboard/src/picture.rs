//! Pictures as SVG, without scripts and without anything from elsewhere: loops as lanes, and who waits for whom. They take their
//! colours from [`STYLE`], which a file that is read on its own has to contain.

mod graph;
mod lanes;

pub use graph::{Arrow, waits};
pub use lanes::lanes;

/// The style sheet of the pictures; it needs the colours of the page, which are defined in it as well.
pub const STYLE: &str = include_str!("picture.css");

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its width in pixels.
    pub width: u32,
    /// True if tests lead to their pages.
    pub links: bool,
}

/// The width of a character of the pictures' text, in pixels; a little more than it is.
const CHARACTER: f64 = 7.4;
/// Below this width there is no room for names beside what they name.
const NARROW: u32 = 640;

/// A coordinate as short text.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Text that has room for a number of pixels.
fn fitting(text: &str, pixels: f64) -> String {
    let room = (pixels / CHARACTER).max(2.0) as usize;
    let text = views::text::one_line(text);
    if text.chars().count() <= room { text } else { text.chars().take(room - 1).chain(['…']).collect() }
}
