// Runs on the audio thread: hands every block of the microphone to the page.
registerProcessor(
  "recorder",
  class extends AudioWorkletProcessor {
    process([input]) {
      // No channel: the microphone is not connected yet.
      if (input.length) this.port.postMessage(input[0].slice());
      return true;
    }
  },
);
