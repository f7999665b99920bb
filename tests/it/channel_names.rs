//! One name for each channel: the older ones are read at each door, and the new one is shown.

use carebell::wire;
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{ADMIN_TOKEN, Console, Door, Worker, World},
};

const NORMAL: &str = "jobs.notification.normal";

fn news(channels: &Value) -> Value {
    json!({ "recipients": [{ "userId": "ana" }], "title": "News", "channels": channels })
}

#[tokio::test]
async fn jobs_may_name_a_channel_by_its_name_an_older_one_or_its_number() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let worker = Worker::without_scheduler(&world);
    for (number, name) in [json!("web_push"), json!("CHANNEL_PUSH"), json!(2)].iter().enumerate() {
        let (id, over_http, by_hand) = (format!("nats-{number}"), format!("http-{number}"), format!("cli-{number}"));
        world.publish_json(NORMAL, &id, &news(&json!([name]))).await;
        let job = json!({ "kind": "notification", "jobId": over_http, "job": news(&json!([name])) });
        assert_eq!(door.post(&job).await.status, StatusCode::ACCEPTED);
        let json = news(&json!([name])).to_string();
        let (well, _, error) =
            carebell(&world, &["publish", "notification", "--json", &json, "--job-id", &by_hand], &[]).await;
        assert!(well, "{error}");
        for id in [id, over_http, by_hand] {
            let ledger = world.ledger(&id).await;
            let found: Vec<(&str, &str)> =
                ledger.iter().map(|line| (line.channel.as_str(), line.state.as_str())).collect();
            assert_eq!(found, [("web_push", "sent")], "{id}");
        }
    }
    // A protobuf body has the number; people are shown the name.
    let body = wire::Notification {
        channels: vec![wire::Channel::WebPush.into(), wire::Channel::InApp.into()],
        ..wire::Notification::default()
    };
    world.publish(NORMAL, &[("Carebell-Job-Id", "untitled")], body.encode_to_vec()).await;
    world.dead_letters_once(1).await;
    let (_, shown, _) = carebell(&world, &["dead-letters", "show", "1", "--output", "json"], &[]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["body"]["channels"], json!(["web_push", "in_app"]));
    worker.stop().await;
}

#[tokio::test]
async fn preferences_commands_and_the_api_take_both_names_of_web_push_and_show_the_new_one() {
    let world = World::new().await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{push}'), ('ben', '{web_push}')").await;
    let worker = Worker::without_scheduler(&world);
    let both = json!({ "recipients": [{ "userId": "ana" }, { "userId": "ben" }], "title": "News" });
    world.publish_json(NORMAL, "news", &both).await;
    let ledger = world.ledger("news").await;
    assert!(ledger.len() == 2 && ledger.iter().all(|line| line.channel == "web_push" && line.state == "sent"));
    for user in ["ana", "ben"] {
        let (_, said, error) = carebell(&world, &["explain", "--user", user, "--job", "news"], &[]).await;
        assert!(said.contains("their preferences now: web_push"), "{said}{error}");
    }
    worker.stop().await;

    let console = Console::start(&world).await;
    let post = async |path: String, body: Option<Value>| console.api(Method::POST, &path, ADMIN_TOKEN, body).await;
    for name in ["web_push", "push", "CHANNEL_PUSH"] {
        let pause = ["queues", "pause", "--channel", name, "--reason", "tried", "--by", "olga"];
        let (well, said, error) = carebell(&world, &pause, &[]).await;
        assert!(well && said.contains("channel web_push is paused"), "{said}{error}");
        let (well, said, error) = carebell(&world, &["queues", "resume", "--channel", name], &[]).await;
        assert!(well, "{said}{error}");
        let paused = post(format!("/channels/{name}/pause"), Some(json!({ "reason": "tried" }))).await;
        assert_eq!((paused.status, &paused.body["channel"]), (StatusCode::OK, &json!("web_push")));
        assert_eq!(world.count("SELECT count(*) FROM pauses WHERE name = 'web_push'").await, 1);
        let resumed = post(format!("/channels/{name}/resume"), None).await;
        assert_eq!((resumed.status, &resumed.body["channel"]), (StatusCode::OK, &json!("web_push")));
    }
}

#[tokio::test]
async fn a_wrong_name_is_told_with_its_place_by_the_command_too() {
    let world = World::new().await;
    let wrong = news(&json!(["sms", "SMS"])).to_string();
    let local = json!({ "medicationId": "metformin", "scheduledTime": "2027-03-01T09:00:00" }).to_string();
    for (kind, json, expected) in [
        ("notification", &wrong, "`channels[1]` must be one of in_app, web_push, email, sms, whatsapp, voice, webhook"),
        ("notification", &wrong, "; did you mean sms?"),
        ("reminder.medication", &local, "`scheduledTime` lacks an offset: it must be an instant in RFC 3339"),
    ] {
        let (well, _, error) = carebell(&world, &["publish", kind, "--json", json], &[]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
}
