// The words of the dashboard, in English and Korean.
const TEXTS = {
  en: {
    language: 'Language', theme: 'Light / dark', figures: 'Figures',
    apiKeyNeeded: 'This service needs an API key', apiKeyUse: 'Use it',
    tokensPerSecond: 'tokens/s', firstTokenP50: 'time to first token (p50)', activeQueued: 'active / queued',
    kvUse: 'KV cache in use', memory: 'memory', requestsErrors: 'requests / errors',
    chartTokens: 'Tokens per second', chartLoad: 'Active and queued', chartLatency: 'Latency',
    chartMemory: 'Memory and KV cache',
    generated: 'generated', prompt: 'prompt', active: 'active', queued: 'queued',
    firstTokenLong: 'first token', wholeAnswer: 'whole answer', memoryMib: 'memory (MiB)', kvPercent: 'KV cache (%)',
    chat: 'Chat', messageHint: 'Ask something. Enter sends, Shift+Enter makes a new line.',
    think: 'think first', clear: 'New chat', stop: 'Stop', send: 'Send', thinking: 'Reasoning', you: 'You',
    model: 'Model', name: 'Name', family: 'Family', parameters: 'Parameters', quantization: 'Weights',
    size: 'Size', context: 'Context', tokens: 'tokens', batch: 'Answers at once', ports: 'Ports', uptime: 'Up for',
    version: 'Version', totals: 'Tokens so far', cached: 'from the cache',
    recent: 'Recent requests', time: 'Time', api: 'API', statusCode: 'Status', finish: 'End',
    promptTokens: 'Prompt', generatedTokens: 'Answer', firstToken: 'First token', total: 'Total',
    recentEmpty: 'No requests yet.', noTexts: 'Texts of prompts and answers are not kept.',
    state_ok: 'running', state_loading: 'loading the model', state_stopping: 'stopping', state_offline: 'offline',
    offline: 'The service does not answer.', keyWrong: 'This API key is not valid.', failed: 'failed',
  },
  ko: {
    language: '언어', theme: '밝게 / 어둡게', figures: '수치',
    apiKeyNeeded: '이 서비스에는 API 키가 필요합니다', apiKeyUse: '사용',
    tokensPerSecond: '토큰/초', firstTokenP50: '첫 토큰까지 (p50)', activeQueued: '처리 중 / 대기',
    kvUse: 'KV 캐시 사용', memory: '메모리', requestsErrors: '요청 / 오류',
    chartTokens: '초당 토큰', chartLoad: '처리 중과 대기', chartLatency: '지연 시간', chartMemory: '메모리와 KV 캐시',
    generated: '생성', prompt: '프롬프트', active: '처리 중', queued: '대기',
    firstTokenLong: '첫 토큰', wholeAnswer: '답변 전체', memoryMib: '메모리 (MiB)', kvPercent: 'KV 캐시 (%)',
    chat: '대화', messageHint: '질문을 입력하세요. Enter는 전송, Shift+Enter는 줄바꿈입니다.',
    think: '먼저 생각하기', clear: '새 대화', stop: '중지', send: '보내기', thinking: '추론', you: '나',
    model: '모델', name: '이름', family: '계열', parameters: '파라미터', quantization: '가중치',
    size: '크기', context: '컨텍스트', tokens: '토큰', batch: '동시 답변', ports: '포트', uptime: '가동 시간',
    version: '버전', totals: '누적 토큰', cached: '캐시에서',
    recent: '최근 요청', time: '시각', api: 'API', statusCode: '상태', finish: '종료',
    promptTokens: '프롬프트', generatedTokens: '답변', firstToken: '첫 토큰', total: '전체',
    recentEmpty: '아직 요청이 없습니다.', noTexts: '질문과 답변의 내용은 저장하지 않습니다.',
    state_ok: '실행 중', state_loading: '모델 불러오는 중', state_stopping: '종료 중', state_offline: '연결 끊김',
    offline: '서비스가 응답하지 않습니다.', keyWrong: 'API 키가 올바르지 않습니다.', failed: '실패',
  },
};

let language = 'en';

export function chosenLanguage() {
  const saved = localStorage.getItem('onggi-language');
  if (saved in TEXTS) return saved;
  return navigator.language.toLowerCase().startsWith('ko') ? 'ko' : 'en';
}

export function text(key) {
  return TEXTS[language][key] ?? key;
}

/** Writes all fixed texts of the page in a language. */
export function useLanguage(name) {
  language = name in TEXTS ? name : 'en';
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-text]')) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll('[data-label]'))
    element.setAttribute('aria-label', text(element.dataset.label));
  document.getElementById('message').placeholder = text('messageHint');
  document.getElementById('message').setAttribute('aria-label', text('messageHint'));
}
