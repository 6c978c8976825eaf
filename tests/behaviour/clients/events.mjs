// undici's EventSource: writes the data of each event as it comes; one of the type `end` is the last.

import { EventSource } from 'undici';

const source = new EventSource(process.argv[2]);
source.onmessage = (event) => console.log(event.data);
source.onerror = (event) => {
  console.error(event);
  process.exit(1);
};
source.addEventListener('end', (event) => {
  console.log(event.data);
  source.close();
});
