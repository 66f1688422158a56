-- Four supervisors decide by rows alone and never read a delivery: their subscriptions end. Each wakes on every commit.
UPDATE subscriptions SET active = 0 WHERE subscriber IN ('monitor', 'deadlock-detector', 'regression-checker', 'heartbeat');
