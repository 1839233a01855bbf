"""
The page for those who come from WCF leaves nothing out. Goal: each of WCF's names is answered.

Method: a list of the names, by topic, each of which has to stand in the page's text; its programs
run in test_docs.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "migrate-from-wcf.md").read_text(encoding="utf-8")
TEXT = re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)

NAMES = {
    "contracts": """
        ServiceContract Name Namespace ConfigurationName SessionMode CallbackContract
        ProtectionLevel OperationContract Action ReplyAction AsyncPattern IsOneWay IsInitiating
        IsTerminating FaultContract FaultContract.Action TransactionFlow
    """,
    "data": """
        DataContract DataContract.Name DataContract.IsReference DataMember DataMember.Name
        DataMember.Order DataMember.IsRequired DataMember.EmitDefaultValue IExtensibleDataObject
        IgnoreExtensionDataObject EnumMember KnownType ServiceKnownType CollectionDataContract
        decimal Guid DateTime Stream
    """,
    "messages": """
        MessageContract MessageContract.IsWrapped WrapperName WrapperNamespace MessageHeader
        MessageHeader.Name MustUnderstand ValidateMustUnderstand Relay Actor
        MessageBodyMember.Order
    """,
    "sessions": """
        SessionMode.Allowed SessionMode.Required SessionMode.NotAllowed OperationContext.SessionId
        EnsureOrderedDispatch ReceiveTimeout InactivityTimeout InvalidOperationException
    """,
    "reliable sessions": """
        Ordered InactivityTimeout MaxRetryCount AcknowledgementInterval MaxTransferWindowSize
        FlowControlEnabled MaxPendingChannels ReliableMessagingVersion CreateSequence Offer
        SequenceAcknowledgement
    """,
    "behaviors": """
        ServiceBehavior InstanceContextMode InstanceContextMode.PerSession
        InstanceContextMode.PerCall InstanceContextMode.Single ConcurrencyMode
        ConcurrencyMode.Single ConcurrencyMode.Reentrant ConcurrencyMode.Multiple
        UseSynchronizationContext IncludeExceptionDetailInFaults AddressFilterMode
        AutomaticSessionShutdown MaxItemsInObjectGraph IDisposable ReleaseInstanceMode BeforeCall
        AfterCall BeforeAndAfterCall AutoDisposeParameters Impersonation TransactionScopeRequired
        TransactionAutoComplete CallbackBehavior.ConcurrencyMode
        CallbackBehavior.UseSynchronizationContext CallbackBehavior.AutomaticSessionShutdown
        CallbackBehavior.IncludeExceptionDetailInFaults
    """,
    "callbacks": """
        DuplexChannelFactory DuplexClientBase InstanceContext GetCallbackChannel wsDualHttp netTcp
        netNamedPipe netHttp CommunicationObjectAbortedException ObjectDisposedException
    """,
    "errors": """
        FaultException ExceptionDetail IErrorHandler ProvideFault HandleError TimeoutException
        CommunicationException EndpointNotFoundException ServerTooBusyException
        CommunicationObjectFaultedException ActionNotSupportedException ProtocolException
        MessageSecurityException QuotaExceededException
    """,
    "throttles, timeouts, quotas": """
        ServiceThrottlingBehavior MaxConcurrentCalls MaxConcurrentSessions MaxConcurrentInstances
        SendTimeout OperationTimeout OpenTimeout CloseTimeout ServiceHost.CloseTimeout
        ServiceHost.OpenTimeout MaxReceivedMessageSize MaxBufferPoolSize MaxDepth
        MaxStringContentLength MaxArrayLength MaxBytesPerRead MaxNameTableCharCount ListenBacklog
        MaxPendingAccepts MaxConnections
    """,
    "extension points": """
        IParameterInspector IDispatchMessageInspector AfterReceiveRequest BeforeSendReply
        IClientMessageInspector BeforeSendRequest AfterReceiveReply IDispatchMessageFormatter
        IClientMessageFormatter IDispatchOperationSelector IOperationInvoker IInstanceProvider
        IInstanceContextInitializer IInstanceContextProvider IExtension ICallContextInitializer
        ServiceAuthorizationManager ServiceCredentials ClientCredentials IAuthorizationPolicy
        IServiceBehavior IContractBehavior IOperationBehavior IEndpointBehavior Validate
        AddBindingParameters ApplyDispatchBehavior ApplyClientBehavior
    """,
    "OperationContext": """
        OperationContext.Current SessionId IncomingMessageHeaders IncomingMessageProperties
        OutgoingMessageHeaders RequestContext InstanceContext Host Channel OperationCompleted
        GetCallbackChannel
    """,
    "hosts and channels": """
        CommunicationState Created Opening Opened Closing Closed Faulted UnknownMessageReceived
        Open Close Abort ServiceHost AddServiceEndpoint Description Authorization Credentials
        ChannelDispatchers BaseAddresses IncrementManualFlowControlLimit SingletonInstance
        ChannelFactory CreateChannel IClientChannel ICommunicationObject ClientBase
    """,
    "metadata": """
        serviceMetadata httpGetEnabled ?wsdl ?singleWsdl IMetadataExchange mexHttpBinding
        mexTcpBinding MetadataResolver svcutil dotnet-svcutil /language /out /config /async /tcv
        /reference /messageContract /namespace /serializer
    """,
    "discovery": """
        ServiceDiscoveryBehavior UdpDiscoveryEndpoint DiscoveryProxy Probe ProbeMatch Resolve
        ResolveMatch Hello Bye
        AnnouncementEndpoint AnnouncementClient AnnouncementService DiscoveryClient.Find FindAsync
        FindCriteria ContractTypeNames FindCriteria.Scopes EndpointDiscoveryBehavior.Scopes
        Extensions ScopeMatchBy ScopeMatchByPrefix ScopeMatchByLdap ScopeMatchByUuid MaxResults
        Duration ResolveCriteria DynamicEndpoint
    """,
    "routing": """
        IRequestReplyRouter ISimplexDatagramRouter ISimplexSessionRouter IDuplexSessionRouter
        ActionMessageFilter EndpointAddressMessageFilter PrefixEndpointAddressMessageFilter
        EndpointNameMessageFilter MatchAllMessageFilter XPathMessageFilter StrictAndMessageFilter
        SoapProcessingBehavior RoutingExtension.ApplyConfiguration RouteOnHeadersOnly
    """,
    "WCF Relay": """
        NetTcpRelayBinding NetOnewayRelayBinding NetEventRelayBinding BasicHttpRelayBinding
        WebHttpRelayBinding RelayConnectionMode.Relayed Hybrid TransportClientEndpointBehavior
    """,
}


@pytest.mark.parametrize("topic", NAMES)
def test_each_name_of_wcf_stands_on_the_page(topic: str) -> None:
    missing = [
        name
        for name in NAMES[topic].split()
        if not re.search(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", TEXT)
    ]
    assert not missing


def test_contents_lead_to_sections_of_the_page_and_leave_none_out() -> None:
    headings = re.findall(r"^##+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    contents = TEXT.split("\n## ")[0]
    assert set(re.findall(r"\(#([^)]*)\)", contents)) == anchors
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= anchors


def test_rows_have_as_many_cells_as_their_table() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE):
        counts = {row.count("|") for row in table.splitlines()}
        assert len(counts) == 1, table.splitlines()[0]
