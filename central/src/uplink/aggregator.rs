//! The conversation with an aggregator: it is told where its shard stands, then sends flushes, what is durable, and the
//! live figures, or opens an epoch; everything but the live figures is answered in order.

use proto::uplink::{AggregatorHello, DurableAck, FlushAck, FlushChunk, GatewayPosition, central_frame, region_frame};

use super::{Conversation, Ended, assembly::Assembly, check_gateway, check_number, check_region, refused, restore};
use crate::{
    control::shards::ShardId,
    metrics::{FlushResult, Peer},
};

pub(super) async fn converse(with: &mut Conversation, hello: AggregatorHello) -> Result<(), Ended> {
    check_region(&hello.region)?;
    let central = with.central.clone();
    let _open = central.metrics.stream(Peer::Aggregator);
    let id = ShardId { region: hello.region, shard: hello.shard };
    let leadership = central.lead(&id).await?;
    let term = leadership.term;
    with.answer(central_frame::Frame::Leadership(leadership)).await?;

    let mut assembly = Assembly::default();
    while let Some(frame) = with.next().await? {
        match frame {
            region_frame::Frame::Flush(chunk) => take_chunk(with, &id, &mut assembly, chunk).await?,
            region_frame::Frame::Durable(durable) => {
                check_shard(&id, durable.shard)?;
                check_number("open flush", durable.open_flush)?;
                check_vector(&durable.vector)?;
                let retired = central.retired(&durable.vector);
                let open_flush = central.keep(&id, durable).await?;
                with.answer(central_frame::Frame::DurableAck(DurableAck { open_flush, retired })).await?;
            }
            region_frame::Frame::Live(live) => {
                check_shard(&id, live.shard)?;
                central.hear(&id, term, live).await?;
            }
            region_frame::Frame::OpenEpoch(open) => {
                check_shard(&id, open.shard)?;
                assembly = Assembly::default(); // what was on its way is of the epoch that ends
                restore::open_epoch(with, &id, open).await?;
            }
            region_frame::Frame::StandIn(asked) => {
                check_shard(&id, asked.shard)?;
                restore::stand_in(with, &id, asked).await?;
            }
            region_frame::Frame::Aggregator(_) | region_frame::Frame::Gateway(_) => {
                return Err(refused("an aggregator's stream has one hello; open another stream for another shard"));
            }
            _ => return Err(refused("this frame does not belong on an aggregator's stream")),
        }
    }
    Ok(())
}

async fn take_chunk(
    with: &Conversation,
    id: &ShardId,
    assembly: &mut Assembly,
    chunk: FlushChunk,
) -> Result<(), Ended> {
    let outcome = receive(with, id, assembly, chunk).await;
    if let Err(Ended::Refused(_)) = outcome {
        with.central.metrics.flush(FlushResult::Refused);
    }
    outcome
}

async fn receive(with: &Conversation, id: &ShardId, assembly: &mut Assembly, chunk: FlushChunk) -> Result<(), Ended> {
    let Some(whole) = assembly.add(chunk, with.central.spool.as_ref())? else { return Ok(()) };
    let flush_id = whole.flush.id.clone();
    if flush_id.region != id.region {
        return Err(refused(format!("a flush of region {:?} came on a stream of {:?}", flush_id.region, id.region)));
    }
    check_shard(id, flush_id.shard)?;
    check_number("flush", flush_id.n)?;
    check_vector(&whole.flush.vector)?;
    with.central.accept(id, whole).await?;
    with.answer(central_frame::Frame::FlushAck(FlushAck { id: Some(flush_id) })).await
}

fn check_shard(id: &ShardId, shard: u32) -> Result<(), Ended> {
    if shard == id.shard {
        return Ok(());
    }
    Err(refused(format!("a frame of shard {shard} came on a stream of shard {}", id.shard)))
}

fn check_vector(vector: &[GatewayPosition]) -> Result<(), Ended> {
    for position in vector {
        check_gateway(&position.gateway)?;
        check_number("LSN", position.lsn)?;
    }
    Ok(())
}
