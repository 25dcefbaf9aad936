// aedes as a broker on 127.0.0.1: node aedes.mjs FOLDER-OF-NODE-MODULES PORT. User edge, password secret.
import net from 'node:net';
import { pathToFileURL } from 'node:url';

const [folder, port] = process.argv.slice(2);
const { Aedes } = await import(pathToFileURL(`${folder}/aedes/aedes.js`));
const broker = await Aedes.createBroker({
  authenticate: (_client, user, password, done) => done(null, user === 'edge' && String(password) === 'secret'),
});
broker.on('clientError', (client, error) => console.log('client', client.id, error.message));
broker.on('connectionError', (client, error) => console.log('connection', client.id, error.message));
net.createServer(broker.handle).listen(Number(port), '127.0.0.1');
