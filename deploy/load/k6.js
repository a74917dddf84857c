// Load on a running service with k6:
//   k6 run deploy/load/k6.js                              5 users for 2 minutes against http://localhost:8000
//   k6 run -e URL=https://chat.example.org -e KEY=... -e USERS=5 -e DURATION=24h deploy/load/k6.js
// The thresholds are the goals for 2 to 5 users: no failures, 512 tokens within 5 s on average.
import http from "k6/http";
import { check, sleep } from "k6";
import { Counter, Trend } from "k6/metrics";

const url = __ENV.URL || "http://localhost:8000";
const maxTokens = Number(__ENV.MAX_TOKENS || 512);
const headers = { "Content-Type": "application/json" };
if (__ENV.KEY) headers.Authorization = `Bearer ${__ENV.KEY}`;
const request = { headers, timeout: "610s" };

export const options = {
  scenarios: {
    people: { executor: "constant-vus", vus: Number(__ENV.USERS || 5), duration: __ENV.DURATION || "2m" },
  },
  thresholds: {
    http_req_failed: ["rate<0.01"],
    checks: ["rate>0.99"],
    http_req_duration: ["avg<5000"],
  },
};

const answerTokens = new Counter("answer_tokens");
const tokensPerSecond = new Trend("tokens_per_second");
const firstToken = new Trend("first_token", true);

const questions = [
  "파이썬에서 리스트와 튜플의 차이는 무엇인가요?",
  "머신러닝에서 과적합은 무엇이고 어떻게 막나요?",
  "REST API는 무엇인가요?",
  "Docker 이미지와 컨테이너는 어떻게 다른가요?",
  "Git에서 merge와 rebase는 어떻게 다른가요?",
];

export function setup() {
  const models = http.get(`${url}/v1/models`, request);
  check(models, { "the service has a model": (r) => r.status === 200 && r.json("data").length > 0 });
  return { model: models.json("data")[0].id };
}

export default function ({ model }) {
  const question = questions[Math.floor(Math.random() * questions.length)];
  if (Math.random() < 0.5) {
    const answer = http.post(`${url}/chat`, JSON.stringify({ message: question, max_tokens: maxTokens }), request);
    if (check(answer, { "/chat answers": (r) => r.status === 200 && r.json("response") !== "" })) {
      answerTokens.add(answer.json("usage.completion_tokens"));
      tokensPerSecond.add(answer.json("tokens_per_s"));
      firstToken.add(1000 * answer.json("time_to_first_token_s"));
    }
  } else {
    const body = { model, messages: [{ role: "user", content: question }], max_tokens: maxTokens };
    const answer = http.post(`${url}/v1/chat/completions`, JSON.stringify(body), request);
    if (check(answer, { "/v1 answers": (r) => r.status === 200 && r.json("choices.0.message.content") !== "" })) {
      answerTokens.add(answer.json("usage.completion_tokens"));
    }
  }
  sleep(1 + 4 * Math.random());
}
