//! librdkafka's own mock of a cluster, with the topic of events.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};

use super::super::common::daemon::eventually;

const TOPIC: &str = "vtagd.events";

pub struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    pub fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        Self(cluster)
    }

    pub fn broker(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Topic, key, headers and body of the first record, once there is one.
    pub fn first(&self) -> (String, String, Vec<(String, String)>, serde_json::Value) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.broker())
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        eventually("an event reaches the topic", || {
            let record = consumer.poll(Duration::from_millis(50))?.ok()?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers = record.headers().unwrap().iter();
            let mut headers: Vec<(String, String)> =
                headers.map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect();
            headers.sort();
            let body = serde_json::from_slice(record.payload().unwrap()).unwrap();
            Some((record.topic().to_owned(), text(record.key().unwrap()), headers, body))
        })
    }
}
