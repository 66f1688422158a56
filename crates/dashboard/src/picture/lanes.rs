//! Loops as lanes on a time axis.
//!
//! The height and the fill of a lane show what its loop does, a sign shows what resulted; colour only repeats it.

use coord_db::{TestId, Timestamp};
use maud::{Markup, html};
use views::lanes::{Doing, Lane, Lanes, Mark, Outcome, Segment};
use views::when::{clock, span};

use super::{CHARACTER, Look, NARROW, fitting, px};

const LANE: f64 = 26.0;
const AXIS: f64 = 24.0;
/// Above a lane, for its name where there is no room beside it.
const NAME: f64 = 16.0;
const MAX_NAME: usize = 22;
/// Pixels between two marks at which each is seen.
const APART: f64 = 9.0;
/// The width from which a segment has words of its own, in pixels.
const POINTABLE: f64 = 10.0;

/// Where moments and lanes are.
struct Frame {
    left: f64,
    width: f64,
    since: Timestamp,
    until: Timestamp,
    pitch: f64,
    above: f64,
}

impl Frame {
    fn x(&self, at: Timestamp) -> f64 {
        let period = self.until.millis_since(self.since).max(1) as f64;
        let share = at.millis_since(self.since) as f64 / period;
        self.left + share.clamp(0.0, 1.0) * self.width
    }

    fn y(&self, lane: usize) -> f64 {
        AXIS + self.pitch * lane as f64
    }
}

/// Draws the lanes.
#[must_use]
pub fn lanes(view: &Lanes, look: Look) -> Markup {
    let is_narrow = look.width < NARROW;
    let longest = view.lanes.iter().map(|lane| lane.loop_id.as_str().len().min(MAX_NAME)).max().unwrap_or(0);
    let left = if is_narrow { 0.0 } else { longest as f64 * CHARACTER + 12.0 };
    let above = if is_narrow { NAME } else { 0.0 };
    let frame = Frame {
        left,
        width: f64::from(look.width) - left - 1.0,
        since: view.since,
        until: view.until,
        pitch: LANE + above,
        above,
    };
    let height = frame.y(view.lanes.len()) + 4.0;
    html! {
        svg.picture.lanes role="img" width=(look.width) height=(px(height)) viewBox={ "0 0 " (look.width) " " (px(height)) } {
            title { (summary(view)) }
            defs {
                pattern #hatch width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.gate width="5" height="5" {}
                    line.hatch x1="0" y1="0" x2="0" y2="5" {}
                }
            }
            (axis(&frame, height))
            @for (at, lane) in view.lanes.iter().enumerate() {
                (draw_lane(&frame, at, lane, look))
            }
        }
    }
}

fn summary(view: &Lanes) -> String {
    format!("{} loops from {} to {}", view.lanes.len(), clock(view.since), clock(view.until))
}

fn axis(frame: &Frame, height: f64) -> Markup {
    let seconds = frame.until.seconds_since(frame.since).max(1);
    let step = step(seconds, frame.width);
    // On the full minute, hour or day.
    let first = frame.since.as_millis().div_euclid(step * 1000) * step + step;
    let last = frame.until.as_millis().div_euclid(1000);
    let label = |at: Timestamp| {
        let text = at.to_sql_text();
        match step {
            ..60 => text[11..19].to_owned(),
            60..86_400 => text[11..16].to_owned(),
            _ => text[5..10].to_owned(),
        }
    };
    let moments = std::iter::successors(Some(first), |at| Some(at + step)).take_while(|at| *at <= last);
    html! {
        g.axis {
            @for at in moments.map(|seconds| Timestamp::from_millis(seconds * 1000)) {
                @let x = frame.x(at);
                line x1=(px(x)) x2=(px(x)) y1=(px(AXIS - 6.0)) y2=(px(height)) {}
                @if x + 4.0 > frame.left + 18.0 && x < frame.left + frame.width - 18.0 {
                    text x=(px(x)) y="12" data-at=(at.as_millis()) data-step=(step) { (label(at)) }
                }
            }
        }
    }
}

/// Seconds between the lines of the axis, with room for a label at each.
fn step(seconds: i64, width: f64) -> i64 {
    const STEPS: [i64; 14] = [5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];
    let labels = (width / 84.0).max(1.0) as i64;
    let days = || (seconds / labels).div_euclid(86_400) * 86_400 + 86_400;
    STEPS.into_iter().find(|step| seconds / step <= labels).unwrap_or_else(days)
}

fn draw_lane(frame: &Frame, at: usize, lane: &Lane, look: Look) -> Markup {
    let top = frame.y(at);
    let middle = top + frame.above + LANE / 2.0;
    html! {
        g.lane {
            @if frame.above > 0.0 {
                text.name x="0" y=(px(top + NAME - 2.0)) { (fitting(lane.loop_id.as_str(), frame.width)) }
            } @else {
                text.name x="0" y=(px(middle + 4.0)) {
                    (fitting(lane.loop_id.as_str(), MAX_NAME as f64 * CHARACTER))
                }
            }
            line.ground x1=(px(frame.left)) x2=(px(frame.left + frame.width)) y1=(px(middle)) y2=(px(middle)) {}
            @for attempt in merged(frame, &lane.segments).chunk_by(|a, b| a.test == b.test && a.attempt == b.attempt) {
                (draw_attempt(frame, attempt, middle, look))
            }
            @for (mark, hidden) in apart(frame, &lane.marks) { (draw_mark(frame, mark, hidden, middle, look)) }
        }
    }
}

/// Segments that lie within one pixel of each other and show the same are one: a night has thousands.
fn merged(frame: &Frame, segments: &[Segment]) -> Vec<Segment> {
    let mut drawn: Vec<Segment> = Vec::new();
    for segment in segments {
        match drawn.last_mut() {
            Some(last)
                if last.doing == segment.doing
                    && frame.x(segment.from) - frame.x(last.to) < 1.0
                    && (last.test == segment.test || frame.x(segment.to) - frame.x(segment.from) < 1.0) =>
            {
                last.to = segment.to;
                last.open = segment.open;
            }
            // What is narrower than half a pixel beside something else is not seen.
            Some(last) if frame.x(segment.to) - frame.x(last.to) < 0.5 => {}
            _ => drawn.push(segment.clone()),
        }
    }
    drawn
}

/// The segments of one attempt, or those without a test: one link, so that a night is not ten times as long.
fn draw_attempt(frame: &Frame, segments: &[Segment], middle: f64, look: Look) -> Markup {
    let Some(first) = segments.first() else { return html! {} };
    linked(
        first.test.as_ref(),
        look,
        html! {
            @if let Some(test) = &first.test { title { (test) ", attempt " (first.attempt) } }
            @for segment in segments { (draw_segment(frame, segment, middle)) }
        },
    )
}

fn draw_segment(frame: &Frame, segment: &Segment, middle: f64) -> Markup {
    let (class, word, height) = match segment.doing {
        Doing::Working => ("working", "agent works", 16.0),
        Doing::Gate => ("gate", "checks run", 16.0),
        Doing::Waiting => ("waiting", "waits", 7.0),
        Doing::Paused => ("paused", "paused", 3.0),
    };
    // What goes on is drawn to the end of the picture, which moves in steps.
    let (from, to) = (frame.x(segment.from), frame.x(if segment.open { frame.until } else { segment.to }));
    let test = segment.test.as_ref().map(|test| format!("{test}, attempt {}: ", segment.attempt)).unwrap_or_default();
    let length = match segment.open {
        true => format!("since {}", clock(segment.from)),
        false => format!("for {}", span(segment.to.seconds_since(segment.from))),
    };
    let fill = (segment.doing == Doing::Gate).then_some("url(#hatch)");
    html! {
        rect class=(class) x=(px(from)) y=(px(middle - height / 2.0)) width=(px((to - from).max(1.0))) height=(px(height)) fill=[fill] {
            // What nobody can point at has the title of its attempt.
            @if to - from >= POINTABLE { title { (test) (word) " " (length) } }
        }
    }
}

/// The marks that have room, each with the number of those that it hides. The worst of those that lie together is shown.
fn apart<'a>(frame: &Frame, marks: &'a [Mark]) -> Vec<(&'a Mark, usize)> {
    let rank = |mark: &Mark| match mark.outcome {
        Outcome::Regressed => 3,
        Outcome::Failed => 2,
        Outcome::Landed => 1,
        Outcome::Queued => 0,
    };
    let mut shown: Vec<(&Mark, usize)> = Vec::new();
    for mark in marks {
        match shown.last_mut() {
            Some((last, hidden)) if frame.x(mark.at) - frame.x(last.at) < APART => {
                *hidden += 1;
                if rank(mark) > rank(last) {
                    *last = mark;
                }
            }
            _ => shown.push((mark, 0)),
        }
    }
    shown
}

fn draw_mark(frame: &Frame, mark: &Mark, hidden: usize, middle: f64, look: Look) -> Markup {
    let (class, sign, word) = match mark.outcome {
        Outcome::Landed => ("landed", "✓", "landed"),
        Outcome::Failed => ("failed", "✗", "failed"),
        Outcome::Queued => ("queued", "◇", "verified, queued to land"),
        Outcome::Regressed => ("regressed", "!", "broke a test that had passed"),
    };
    let x = frame.x(mark.at).clamp(frame.left + 5.0, frame.left + frame.width - 5.0);
    let test = mark.test.as_ref().map(|test| format!("{test}: ")).unwrap_or_default();
    let more = if hidden > 0 { format!(", and {hidden} more here") } else { String::new() };
    linked(
        mark.test.as_ref(),
        look,
        html! {
            g class={ "mark " (class) } {
                circle cx=(px(x)) cy=(px(middle)) r="6.5" {}
                text x=(px(x)) y=(px(middle + 4.0)) { (sign) }
                title { (test) (word) ", " (clock(mark.at)) (more) }
            }
        },
    )
}

fn linked(test: Option<&TestId>, look: Look, drawn: Markup) -> Markup {
    match test.filter(|_| look.links) {
        // The grid of tests and the lists lead to the same pages by keyboard.
        Some(test) => html! { a href={ "/tests/" (test) } tabindex="-1" { (drawn) } },
        None => drawn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn segment(from: i64, to: i64, doing: Doing, test: &str) -> Segment {
        Segment { from: at(from), to: at(to), doing, test: test.parse().ok(), attempt: 1, open: false }
    }

    fn view(segments: Vec<Segment>, marks: Vec<Mark>) -> Lanes {
        let lane = Lane { loop_id: "backend".parse().unwrap(), segments, marks };
        Lanes { since: at(0), until: at(3600), lanes: vec![lane] }
    }

    const WIDE: Look = Look { width: 1000, links: true };

    #[test]
    fn what_a_loop_does_is_a_shape_at_its_time() {
        let segments = vec![segment(0, 1800, Doing::Working, "t1"), segment(1800, 2700, Doing::Gate, "t1")];
        let drawn = lanes(&view(segments, Vec::new()), WIDE).into_string();
        assert!(drawn.contains(r#"<rect class="working" x="63.8" y="29" width="467.6" height="16">"#), "{drawn}");
        assert!(drawn.contains(r##"width="233.8" height="16" fill="url(#hatch)">"##), "{drawn}");
        assert!(drawn.contains("t1, attempt 1: agent works for 30m 00s"), "{drawn}");
        assert!(drawn.contains(r#"<a href="/tests/t1""#));
        let file = lanes(&view(vec![segment(0, 9, Doing::Working, "t1")], Vec::new()), Look { links: false, ..WIDE });
        assert!(!file.into_string().contains("<a "), "a file on its own has no pages");
    }

    #[test]
    fn it_fits_its_width_and_names_stand_above_where_it_is_narrow() {
        for width in [330, 1000] {
            let drawn = lanes(&view(vec![segment(0, 3600, Doing::Paused, "t")], Vec::new()), Look { width, links: true });
            let drawn = drawn.into_string();
            assert!(drawn.contains(&format!(r#"width="{width}""#)));
            for x in drawn.split(" x=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok()) {
                assert!((0.0..=f64::from(width)).contains(&x), "{x} of {width}");
            }
        }
    }

    #[test]
    fn a_night_of_thousands_stays_small_and_the_worst_mark_is_seen() {
        let segments =
            (0..5_000).map(|n| Segment { to: Timestamp::from_millis(n * 720 + 700), ..segment(0, 0, Doing::Working, "t") });
        let segments =
            segments.enumerate().map(|(n, s)| Segment { from: Timestamp::from_millis(n as i64 * 720), ..s }).collect();
        let mark = |second, outcome| Mark { at: at(second), outcome, test: "t".parse().ok(), attempt: 1 };
        let mut marks: Vec<Mark> = (0..3000).map(|second| mark(second, Outcome::Landed)).collect();
        marks[1500].outcome = Outcome::Failed;
        let drawn = lanes(&view(segments, marks), WIDE).into_string();
        assert!(drawn.len() < 60_000, "{} bytes", drawn.len());
        assert_eq!(drawn.matches("mark failed").count(), 1);
    }

    #[test]
    fn labels_of_the_axis_have_room() {
        assert_eq!([step(60, 900.0), step(3600, 900.0), step(86_400, 900.0), step(3600, 330.0)], [10, 600, 10_800, 1800]);
        assert_eq!(step(10 * 86_400, 170.0) % 86_400, 0);
    }
}
