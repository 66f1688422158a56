//! Who waits for whom, as a graph: those who wait for nobody at one end, and each waiter beyond those it waits for.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::{CHARACTER, Look, NARROW, fitting, px};

/// One waits for another on something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Who waits.
    pub waiter: String,
    /// For whom.
    pub holder: String,
    /// On what.
    pub on: String,
}

const BOX_HEIGHT: f64 = 26.0;
const MAX_BOX: f64 = 170.0;
/// Of one in a deadlock, the sign before its name.
const SIGN: f64 = 18.0;
/// Between two neighbours in one row or column.
const GAP: f64 = 26.0;
/// From one level to the next, where levels are rows.
const STEP_DOWN: f64 = 92.0;
/// The most that is drawn; the list beside the picture has all.
const MAX_NODES: usize = 40;

/// How far each is from those who wait for nobody. In a cycle, the one that comes first by name is taken as nearest.
fn levels(arrows: &BTreeMap<(&str, &str), Vec<&str>>) -> BTreeMap<String, usize> {
    let nodes: BTreeSet<&str> = arrows.keys().flat_map(|(waiter, holder)| [*waiter, *holder]).collect();
    fn depth<'a>(
        node: &'a str,
        arrows: &BTreeMap<(&'a str, &'a str), Vec<&'a str>>,
        known: &mut BTreeMap<&'a str, usize>,
        open: &mut BTreeSet<&'a str>,
    ) -> usize {
        if let Some(depth) = known.get(node) {
            return *depth;
        }
        open.insert(node);
        let holders = arrows.range((node, "")..).map(|((waiter, holder), _)| (*waiter, *holder));
        let mut deepest = 0;
        for (_, holder) in holders.take_while(|(waiter, _)| *waiter == node) {
            // An arrow back into what is being walked closes a cycle.
            if !open.contains(holder) {
                deepest = deepest.max(depth(holder, arrows, known, open) + 1);
            }
        }
        open.remove(node);
        known.insert(node, deepest);
        deepest
    }
    let mut known = BTreeMap::new();
    for node in nodes {
        depth(node, arrows, &mut known, &mut BTreeSet::new());
    }
    known.into_iter().map(|(node, depth)| (node.to_owned(), depth)).collect()
}

struct Node<'a> {
    name: &'a str,
    x: f64,
    y: f64,
    width: f64,
    is_stuck: bool,
}

/// Draws who waits for whom. `stuck` are those in a deadlock.
#[must_use]
pub fn waits(given: &[Arrow], stuck: &BTreeSet<String>, look: Look) -> Markup {
    let mut arrows: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for arrow in given.iter().filter(|arrow| arrow.waiter != arrow.holder) {
        arrows.entry((&arrow.waiter, &arrow.holder)).or_default().push(&arrow.on);
    }
    let levels = levels(&arrows);
    let mut rows: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (name, level) in levels.iter().take(MAX_NODES) {
        rows.entry(*level).or_default().push(name);
    }
    let longest = levels.keys().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
    let deepest = rows.len().max(1) as f64;
    let most = rows.values().map(Vec::len).max().unwrap_or(0) as f64;
    let width = f64::from(look.width);
    let sign = if stuck.is_empty() { 0.0 } else { SIGN };
    let box_width = (longest * CHARACTER + 22.0 + sign).min(MAX_BOX);
    // Levels are columns from right to left where there is room for what is waited for between them, else rows.
    let is_across = look.width >= NARROW && deepest * box_width + (deepest - 1.0) * 130.0 <= width;
    let mut nodes: BTreeMap<&str, Node<'_>> = BTreeMap::new();
    for (level, names) in &rows {
        for (at, name) in names.iter().enumerate() {
            let (x, y, own_width) = if is_across {
                let step = ((width - box_width) / (deepest - 1.0).max(1.0)).min(box_width + 260.0);
                ((deepest - 1.0 - *level as f64) * step, at as f64 * (BOX_HEIGHT + GAP) + 24.0, box_width)
            } else {
                let place = width / names.len() as f64;
                let own = box_width.min(place - 10.0).max(24.0);
                (place * at as f64 + (place - own) / 2.0, (deepest - 1.0 - *level as f64) * STEP_DOWN + 4.0, own)
            };
            nodes.insert(name, Node { name, x, y, width: own_width, is_stuck: stuck.contains(*name) });
        }
    }
    let height = if is_across { most * (BOX_HEIGHT + GAP) + 28.0 } else { (deepest - 1.0) * STEP_DOWN + BOX_HEIGHT + 10.0 };
    let drawn: Vec<(&Node<'_>, &Node<'_>, &Vec<&str>)> =
        arrows.iter().filter_map(|((waiter, holder), on)| Some((nodes.get(waiter)?, nodes.get(holder)?, on))).collect();
    html! {
        svg.picture.waits role="img" width=(look.width) height=(px(height)) viewBox={ "0 0 " (look.width) " " (px(height)) } {
            title { (words(given)) }
            defs {
                marker #arrow viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" {
                    path.tip d="M0 0 8 4 0 8z" {}
                }
            }
            @for (waiter, holder, on) in &drawn { (draw_arrow(waiter, holder, on, is_across)) }
            @for node in nodes.values() { (draw_node(node)) }
        }
    }
}

fn words(arrows: &[Arrow]) -> String {
    let line = |arrow: &Arrow| format!("{} waits for {}", arrow.waiter, arrow.holder);
    views::text::shortened(&views::text::one_line(&arrows.iter().map(line).collect::<Vec<_>>().join("; ")), 600)
}

fn draw_node(node: &Node<'_>) -> Markup {
    let class = if node.is_stuck { "node stuck" } else { "node" };
    html! {
        g class=(class) {
            rect x=(px(node.x)) y=(px(node.y)) width=(px(node.width)) height=(px(BOX_HEIGHT)) rx="5" {}
            text x=(px(node.x + node.width / 2.0)) y=(px(node.y + 17.5)) {
                @if node.is_stuck { "⟳ " }
                (fitting(node.name, node.width - 10.0 - if node.is_stuck { SIGN } else { 0.0 }))
            }
            title { (views::text::one_line(node.name)) @if node.is_stuck { ", in a deadlock" } }
        }
    }
}

fn draw_arrow(waiter: &Node<'_>, holder: &Node<'_>, on: &[&str], is_across: bool) -> Markup {
    let middle = |node: &Node<'_>| (node.x + node.width / 2.0, node.y + BOX_HEIGHT / 2.0);
    let ((ax, ay), (bx, by)) = (middle(waiter), middle(holder));
    // Both directions between two bend to different sides, so that a cycle of two is seen as one.
    let (x1, y1, x2, y2) = if is_across && (ax - bx).abs() > 1.0 {
        let side = if ax < bx { 1.0 } else { -1.0 };
        let shift = if ax < bx { -6.0 } else { 6.0 };
        (ax + side * waiter.width / 2.0, ay + shift, bx - side * (holder.width / 2.0 + 2.0), by + shift)
    } else {
        let side = if ay < by { 1.0 } else { -1.0 };
        let shift = if ay < by { 10.0 } else { -10.0 };
        if (ay - by).abs() < 1.0 {
            (ax + shift, ay - BOX_HEIGHT / 2.0, bx + shift, by - BOX_HEIGHT / 2.0 - 2.0)
        } else {
            (ax + shift, ay + side * BOX_HEIGHT / 2.0, bx + shift, by - side * (BOX_HEIGHT / 2.0 + 2.0))
        }
    };
    let length = ((x2 - x1).powi(2) + (y2 - y1).powi(2)).sqrt().max(1.0);
    let bend = 14.0_f64.min(length / 6.0);
    let (nx, ny) = ((y2 - y1) / length * bend, -(x2 - x1) / length * bend);
    let (cx, cy) = ((x1 + x2) / 2.0 + nx, (y1 + y2) / 2.0 + ny);
    let first = on.first().copied().unwrap_or_default();
    let more = if on.len() > 1 { format!(" +{}", on.len() - 1) } else { String::new() };
    // The end of a path says most.
    let name = first.rsplit('/').find(|part| !part.is_empty()).unwrap_or(first);
    // Beside a line that goes down or up, above or below one that goes across.
    let (class, tx, ty, room) = match (is_across, nx > 0.0) {
        (true, _) => (None, nx * 0.9, ny * 0.9 + if ny < 0.0 { -2.0 } else { 10.0 }, (x2 - x1).abs() - 16.0),
        (false, true) => (Some("after"), nx * 0.5 + 5.0, 4.0, 130.0),
        (false, false) => (Some("before"), nx * 0.5 - 5.0, 4.0, 130.0),
    };
    html! {
        g.arrow {
            path d={ "M" (px(x1)) " " (px(y1)) "Q" (px(cx)) " " (px(cy)) " " (px(x2)) " " (px(y2)) } marker-end="url(#arrow)" {}
            text class=[class] x=(px((x1 + x2) / 2.0 + tx)) y=(px((y1 + y2) / 2.0 + ty)) { (fitting(&format!("{name}{more}"), room.max(40.0))) }
            title { (words(&[Arrow { waiter: waiter.name.to_owned(), holder: holder.name.to_owned(), on: String::new() }])) " on " (views::text::one_line(&on.join(", "))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(given: &str) -> Vec<Arrow> {
        let arrow = |pair: &str| {
            let (waiter, holder) = pair.split_once('>').unwrap();
            Arrow { waiter: waiter.to_owned(), holder: holder.to_owned(), on: format!("src/{holder}.rs") }
        };
        given.split_whitespace().map(arrow).collect()
    }

    fn levels_of(given: &str) -> String {
        let arrows = arrows(given);
        let mut map: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for arrow in &arrows {
            map.entry((&arrow.waiter, &arrow.holder)).or_default().push(&arrow.on);
        }
        levels(&map).into_iter().map(|(name, level)| format!("{name}{level}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn waiters_stand_beyond_those_they_wait_for() {
        assert_eq!(levels_of("a>b b>c"), "a2 b1 c0");
        assert_eq!(levels_of("a>c b>c"), "a1 b1 c0");
        assert_eq!(levels_of("a>b b>a"), "a1 b0");
        assert_eq!(levels_of("a>b b>c c>a d>a"), "a2 b1 c0 d3");
    }

    #[test]
    fn every_arrow_and_everyone_is_drawn_within_the_picture() {
        for (given, nodes) in [("a>b b>a", 2), ("a>b b>c c>a d>a", 4), ("a>z b>z c>z d>z e>z f>z", 7)] {
            for width in [330, 1100] {
                let stuck = BTreeSet::from(["a".to_owned()]);
                let drawn = waits(&arrows(given), &stuck, Look { width, links: true }).into_string();
                assert_eq!(drawn.matches("<g class=\"arrow\"").count(), given.split_whitespace().count(), "{given}");
                assert_eq!(drawn.matches("<g class=\"node").count(), nodes, "{given}");
                assert_eq!(drawn.matches("node stuck").count(), 1);
                for x in drawn.split(" x=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok()) {
                    assert!((0.0..=f64::from(width)).contains(&x), "{x} of {width}");
                }
            }
        }
    }

    #[test]
    fn hostile_names_are_text_and_several_things_are_one_arrow() {
        let hostile = Arrow { waiter: "<b>\u{202e}".to_owned(), holder: "h".to_owned(), on: "<script>".to_owned() };
        let other = Arrow { on: "b.rs".to_owned(), ..hostile.clone() };
        let drawn = waits(&[hostile, other], &BTreeSet::new(), Look { width: 800, links: false }).into_string();
        assert!(!drawn.contains("<b>") && !drawn.contains("<script>") && !drawn.contains('\u{202e}'), "{drawn}");
        assert!(drawn.contains("&lt;script&gt; +1"), "{drawn}");
        // Many that wait in a ring end as well.
        let ring: Vec<Arrow> = (0..60)
            .map(|n| Arrow { waiter: format!("n{n}"), holder: format!("n{}", (n + 1) % 60), on: String::new() })
            .collect();
        assert!(waits(&ring, &BTreeSet::new(), Look { width: 330, links: false }).into_string().len() < 40_000);
    }
}
