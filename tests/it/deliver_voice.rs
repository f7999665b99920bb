//! `deliver.voice`: spoken text and outcomes.

use carebell::{
    dev::phone_service::{Behaviour, Spoken},
    plan::Channel,
};

use crate::support::{NUMBER, Phones, World};

#[tokio::test]
async fn a_call_reads_the_text_twice() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let worker = Phones::worker(&world, &phones.one("VOICE"), &[]);
    world.deliver("d1", Channel::Voice, NUMBER, ("Rose's \"tea\" & more", "Now\n<soon>")).await;
    let row = world.rows("job-d1").await.remove(0);
    assert_eq!((row.ended(), row.answer.as_deref()), (("sent", None, 0), Some("201")));
    let call = &phones.first.received()[0];
    assert_eq!(row.provider_id.as_deref(), Some(call.sid.as_str()));
    assert!(call.sid.starts_with("CA"), "{}", call.sid);
    let text = "Rose's \"tea\" & more. Now. <soon>".to_owned();
    assert_eq!(call.spoken, Some(Spoken { says: vec![(None, text.clone()), (None, text)], pauses: 1 }));
    assert_eq!((call.to.as_str(), call.from.as_str()), (NUMBER, "+43720123456"));
    assert_eq!(phones.first.rejected(), []);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_call_that_cannot_be_made_is_recorded() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let worker = Phones::worker(&world, &phones.one("VOICE"), &[]);
    phones.first.behave(1, Behaviour::error(400, 21_217));
    world.deliver("d1", Channel::Voice, NUMBER, ("Now", "")).await;
    assert_eq!(world.rows("job-d1").await.remove(0).ended(), ("failed", Some("invalid_number"), 0));
    phones.first.behave(1, Behaviour::error(403, 21_215));
    world.deliver("d2", Channel::Voice, "+8801712345678", ("Now", "")).await;
    let row = world.rows("job-d2").await.remove(0);
    assert_eq!(row.ended(), ("dead", Some("permanent"), 1), "a country that the account may not call");
    worker.stop().await;
}
