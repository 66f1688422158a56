//! Publishing against a plain insert into the same table and indexes without triggers.

use coord_db::Durability;

use crate::report::{Report, Target, median};
use crate::{Extent, Failure, world};

pub fn measure(extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let (rounds, count) = (extent.of(15, 5), extent.of(2_000, 500));
    let cases = [
        ("publish, no subscriber", 0, 0, 1, 0.90),
        ("publish, 3 of 8 subscriptions match", 8, 3, 1, 0.50),
        ("publish, 3 of 25 subscriptions match", 25, 3, 1, 0.40),
        ("publish, no subscriber, 100 a transaction", 0, 0, 100, 0.75),
        ("publish, 3 of 8 match, 100 a transaction", 8, 3, 100, f64::NAN),
    ];
    for (name, subscriptions, matching, per, target) in cases {
        let folder = tempfile::tempdir()?;
        let ours = folder.path().join("ours.db");
        let db = world::database(&ours, Durability::Normal, subscriptions, matching)?;
        // As another tool would, with the triggers but without this crate.
        let foreign = world::raw(&ours, Durability::Normal)?;
        let plain = world::without_triggers(&folder.path().join("plain.db"), Durability::Normal)?;
        let event = world::event()?;
        let (mut published, mut inserted, mut base) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let raw = world::insert_raw(&plain, count, per)?;
            let api = world::publish(&db, &event, count, per)?;
            let shell = world::insert_raw(&foreign, count, per)?;
            if round > 0 {
                published.push(raw / api);
                inserted.push(raw / shell);
                base.push(raw * 1e6);
            }
        }
        let target = if target.is_nan() { Target::Shown } else { Target::AtLeast(target) };
        report.add(name, median(published), "of raw", target);
        report.add(format!("{name}: a foreign INSERT, with the triggers"), median(inserted), "of raw", Target::Shown);
        report.add(format!("{name}: one raw insert"), median(base), "µs", Target::Shown);
    }
    Ok(())
}
