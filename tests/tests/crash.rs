//! Everything dies at once, at random moments, again and again.

#[test]
fn nothing_acknowledged_is_lost_in_twenty_kills_of_everything() {
    let tally = wmall_tests::cycles::run(20, 1);
    assert!(tally.acknowledged > 0, "{tally:?}");
}
