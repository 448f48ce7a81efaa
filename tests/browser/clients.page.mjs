// What runs in the page of clients.test.mjs: both official clients behind the same functions.
import { create, createFileRegistry, fromBinary, toBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { GrpcWebClientBase, MethodDescriptor, MethodType } from 'grpc-web';

const SERVICE = 'tideline.agent.v1.Agent';

let service; // as the descriptors have it
let ways;

const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

export const start = (gateway, descriptors) => {
  service = createFileRegistry(fromBinary(FileDescriptorSetSchema, fromBase64(descriptors))).getService(SERVICE);
  ways = { 'grpc-web': grpcWeb(gateway), 'connect-web': connectWeb(gateway) };
};

// Sends a batch; answers what came back.
export const send = (client, site, batch) => told(ways[client].send({ site, sentMs: BigInt(Date.now()), batch: fromBase64(batch) }));

// Subscribes until the first frame that is no refusal; answers it.
export const subscribe = (client, site) => told(ways[client].subscribe({ site, agentVersion: 'test' }));

const told = (answer) =>
  answer.then(
    ({ frame: { case: frame, value } }) => ({ frame, seqs: value.seqs, region: value.region, reason: value.reason }),
    ({ code, message }) => ({ code, message }),
  );

const connectWeb = (baseUrl) => {
  const client = createClient(service, createGrpcWebTransport({ baseUrl }));
  return {
    send: (envelope) => client.send(envelope),
    async subscribe(hello) {
      for await (const answer of client.subscribe(hello)) if (answer.frame.case !== 'reject') return answer;
      throw new Error('the subscription ended without a frame');
    },
  };
};

// The client takes any codec; this one is that of the descriptors.
const grpcWeb = (gateway) => {
  const client = new GrpcWebClientBase({ format: 'binary' });
  const streaming = new GrpcWebClientBase({ format: 'text' }); // the one of its formats that is read while it comes
  const method = ({ name, input, output }, type) => {
    const encode = (message) => toBinary(input, create(input, message));
    const path = `/${SERVICE}/${name}`;
    return [gateway + path, new MethodDescriptor(path, type, Object, Object, encode, (bytes) => fromBinary(output, bytes))];
  };
  const [sendUrl, sendMethod] = method(service.method.send, MethodType.UNARY);
  const [subscribeUrl, subscribeMethod] = method(service.method.subscribe, MethodType.SERVER_STREAMING);
  return {
    send: (envelope) => client.unaryCall(sendUrl, envelope, {}, sendMethod),
    subscribe: (hello) =>
      new Promise((resolve, reject) => {
        const call = streaming.serverStreaming(subscribeUrl, hello, {}, subscribeMethod);
        call.on('data', (answer) => {
          if (answer.frame.case === 'reject') return;
          resolve(answer);
          call.cancel();
        });
        call.on('error', reject);
        call.on('end', () => reject(new Error('the subscription ended without a frame')));
      }),
  };
};
