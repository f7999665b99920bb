//! `deliver.whatsapp`: prefixed numbers, otherwise the rules of text messages.

use carebell::{dev::phone_service::Behaviour, plan::Channel};

use crate::support::{NUMBER, Phones, World};

#[tokio::test]
async fn a_message_goes_to_a_whatsapp_number() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let worker = Phones::worker(&world, &phones.one("WHATSAPP"), &[]);
    world.deliver("d1", Channel::WhatsApp, NUMBER, ("Visit moved", &"To Friday. ".repeat(180))).await;
    let row = world.rows("job-d1").await.remove(0);
    assert_eq!((row.ended(), row.answer.as_deref()), (("sent", None, 0), Some("201")));
    let message = &phones.first.received()[0];
    assert_eq!(row.provider_id.as_deref(), Some(message.sid.as_str()));
    assert_eq!(message.to, format!("whatsapp:{NUMBER}"));
    assert_eq!(message.from, "whatsapp:+43720123456");
    assert!((1590..=1600).contains(&message.body.chars().count()), "{}", message.body);
    assert!(message.body.ends_with("…\nhttps://app.example.org/visits?id=3"), "{}", message.body);
    assert_eq!(phones.first.rejected(), []);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_broken_number_reaches_no_provider_and_an_unknown_outcome_stays() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let worker = Phones::worker(&world, &phones.both("WHATSAPP"), &[]);
    world.deliver("d1", Channel::WhatsApp, "0660 1234567", ("Visit moved", "")).await;
    let row = world.rows("job-d1").await.remove(0);
    assert_eq!(row.ended(), ("failed", Some("invalid_number"), 0));
    assert_eq!((row.provider.as_deref(), row.answer.as_deref()), (Some("none"), Some("not E.164")));
    assert_eq!(phones.first.counts().requests, 0);

    phones.first.behave(1, Behaviour::Lost);
    world.deliver("d2", Channel::WhatsApp, NUMBER, ("Visit moved", "")).await;
    assert_eq!(world.rows("job-d2").await.remove(0).ended(), ("unknown", Some("no_answer"), 0));
    world.queues_are_empty().await;
    assert_eq!((phones.first.counts().accepted, phones.second.counts().accepted), (1, 0));
    worker.stop().await;
}
