// The messages of pages and gateways, by a codec that is not the project's own.
import { resolve } from 'node:path';
import protobuf from 'protobufjs';

export const PACKAGE = 'tideline.agent.v1';
export const schema = protobuf.loadSync(resolve(import.meta.dirname, '../../proto/schema/agent.proto'));

export const [Envelope, Batch, ServerFrame] = ['Envelope', 'Batch', 'ServerFrame'].map((name) =>
  schema.lookupType(`${PACKAGE}.${name}`),
);
export const Reason = schema.lookupEnum(`${PACKAGE}.Reason`).values;
