"""Load on a running service with Locust (pip install locust), by people who read before they ask again.

    locust -f deploy/load/locustfile.py --host http://localhost:8000                      with its web page
    locust -f deploy/load/locustfile.py --host http://localhost:8000 --headless -u 5 -r 1 -t 24h

ONGGI_API_KEY: the key, where the service asks for one. ONGGI_MAX_TOKENS: the longest answer (512).
Reported beside the requests: "first token" of the streamed ones.
"""

import json
import os
import random
import time

from locust import HttpUser, between, task

QUESTIONS = [
    "파이썬에서 리스트와 튜플의 차이는 무엇인가요?",
    "머신러닝에서 과적합은 무엇이고 어떻게 막나요?",
    "REST API는 무엇인가요?",
    "Docker 이미지와 컨테이너는 어떻게 다른가요?",
    "Git에서 merge와 rebase는 어떻게 다른가요?",
]
MAX_TOKENS = int(os.environ.get("ONGGI_MAX_TOKENS", "512"))


class Person(HttpUser):
    wait_time = between(1, 5)

    def on_start(self):
        if key := os.environ.get("ONGGI_API_KEY"):
            self.client.headers["Authorization"] = f"Bearer {key}"
        models = self.client.get("/v1/models").json()["data"]
        self.model = models[0]["id"]

    @task(1)
    def chat(self):
        body = {"message": random.choice(QUESTIONS), "max_tokens": MAX_TOKENS}
        with self.client.post("/chat", json=body, catch_response=True) as response:
            if response.status_code == 200 and not response.json().get("response"):
                response.failure("the answer is empty")

    @task(3)
    def stream(self):
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": random.choice(QUESTIONS)}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }
        started = time.perf_counter()
        first = None
        finished = False
        with self.client.post("/v1/chat/completions", json=body, stream=True, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            for line in response.iter_lines():
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]":
                    finished = True
                    break
                choices = json.loads(line[6:])["choices"]
                if first is None and choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - started
            if not finished or first is None:
                response.failure("the stream broke off" if not finished else "the answer is empty")
                return
        self.environment.events.request.fire(
            request_type="POST", name="/v1/chat/completions first token", response_time=1000 * first,
            response_length=0, exception=None, context={})
